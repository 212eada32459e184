"""What a node leaves behind for the nodes behind it, for the job's result and for a retry."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from llm_platform.specs.base import Resource


class NodeResult(Resource):
    """The same shape for every agent class, so that job views, retries and notebooks need no special cases."""

    artifacts: dict[str, str] = Field(default={}, description="s3 address by kind, such as `adapter` or `splits`.")
    metrics: dict[str, float] = Field(default={}, description="Finite figures by their public names.")
    model_ids: list[str] = Field(default=[], description="Models that this node registered, evaluated or exported.")
    datasets: list[str] = Field(default=[], description="Dataset ids, or addresses of files, that went in.")
    reused: bool = Field(default=False, description="Whether an earlier result with the same digest was taken.")
    data: dict[str, Any] = Field(default={}, description="The agent's own report.")
