"""The audit log's entries, as they are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from llm_platform.specs.base import Resource, shown

AuditAction = Literal[
    "dataset.upload",
    "job.submit",
    "job.cancel",
    "job.retry",
    "job.checkpoint",
    "job.delete_artifacts",
    "key.create",
    "key.revoke",
    "access.denied",
    "store.put",
    "store.prune",
    "models.reindex",
    "platform.restore",
    "api.restart",
]
"""The last five are commands on the platform's machine."""


class AuditEntry(Resource):
    """Who did what, and when."""

    model_config = shown(
        {
            "entry_id": 7,
            "at": "2025-12-13T01:00:00Z",
            "actor": "ada",
            "key_id": "4f1c2a9be07d",
            "action": "job.submit",
            "target": "job_abc123",
            "client": "192.0.2.7",
            "request_id": "0d1f4c6e8a2b7395",
        }
    )

    entry_id: int = Field(description="Number of the entry; later ones have larger numbers.")
    at: datetime = Field(description="When it was done.")
    actor: str | None = Field(description="The user; null where nobody was known, or without authentication.")
    key_id: str | None = Field(description="The API key that was used.")
    action: AuditAction = Field(description="What was done.")
    target: str = Field(
        description="What it was done to: a dataset, job or key id; of denied access, method and route; of a command, what went in or out."
    )
    client: str | None = Field(description="The address that the request came from; null for the command line.")
    request_id: str | None = Field(description="The request's `X-Request-Id`, by which the server's log has it; null for the command line.")
