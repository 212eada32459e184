"""The audit log's entries, as they are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from llm_platform.specs.base import Resource

AuditAction = Literal[
    "dataset.upload", "job.submit", "job.cancel", "job.retry", "job.delete_artifacts", "key.create", "key.revoke", "access.denied"
]


class AuditEntry(Resource):
    """Who did what, and when."""

    entry_id: int
    at: datetime
    actor: str | None = Field(description="The user; null where nobody was known, or without authentication.")
    key_id: str | None = Field(description="The API key that was used.")
    action: AuditAction
    target: str = Field(description="What it was done to: a dataset, job or key id; of denied access, method and route.")
    client: str | None = Field(description="The address that the request came from; null for the command line.")
    request_id: str | None
