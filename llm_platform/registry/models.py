"""What the registry takes in and gives out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from llm_platform.specs.comparison import Interval
from llm_platform.specs.gate import GateResult


class DatasetInput(BaseModel):
    """A dataset that a model was trained on; `rows` is None if not counted.

    `digest` is the content address of its rows. `sha256` is of the bytes at `source_address`, where the platform's table is, and
    `file_sha256` of those at `file_address`, which is what somebody gave: an uploaded file, or one in the object store.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    source_address: str
    rows: int | None = None
    dataset_id: str | None = None
    sha256: str | None = None
    file_address: str | None = None
    file_sha256: str | None = None


@dataclass(frozen=True)
class MetricPoint:
    """One point of a training curve; it is kept under `train/<key>`, apart from the model's final figures."""

    key: str
    value: float
    step: int
    timestamp_ms: int


class RegisteredModel(BaseModel):
    """A model as MLflow knows it. `tags` are the platform's, without their prefix; `exports` has an address per format.

    `aliases` and `description` are those of its version, whoever gave them.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model_id: str
    run_id: str
    agent_name: str
    model_name: str
    version: str
    aliases: list[str] = []
    description: str = ""
    base_model: str
    mlflow_run_id: str
    datasets: list[DatasetInput]
    training_config: dict[str, Any]
    metrics: dict[str, float]
    intervals: dict[str, Interval] = {}
    exports: dict[str, str]
    export_digests: dict[str, str]
    gates: dict[str, GateResult] = {}
    created_at: datetime
    tags: dict[str, str]

    @property
    def dataset_ids(self) -> list[str]:
        return [dataset.dataset_id for dataset in self.datasets if dataset.dataset_id is not None]
