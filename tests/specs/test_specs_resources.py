"""What the API answers with fits the specification's examples, and the errors cross processes unchanged."""

from __future__ import annotations

from typing import Any

import pytest

from llm_platform.errors import DatasetError, PlatformError, error_classes, from_body
from llm_platform.specs.base import Resource, Spec, problems
from llm_platform.specs.resources import (
    Dataset,
    DatasetUploaded,
    ErrorBody,
    JobCancelled,
    LogHistory,
    LogLine,
    Model,
    Page,
    Preview,
    Progress,
)
from tests.specification import SPECIFICATION

LINE = {"timestamp": "2025-12-13T01:00:10Z", "agent": "TrainingAgent", "level": "METRIC", "message": "Training step completed"}
EXAMPLES: list[tuple[type[Resource], dict[str, Any]]] = [
    *((kind, SPECIFICATION[kind]) for kind in (JobCancelled, DatasetUploaded, Dataset)),
    (Progress, {"completed_agents": ["dataset", "validation"], "current_agent": "preprocessing", "total_agents": 3}),
    (Preview, {"dataset_id": "ds_xyz789", "samples": [{"text": "Sample text 1", "label": "positive"}], "total_rows": 10000}),
    (
        Model,
        {
            "model_id": "model_abc123",
            "run_id": "abc123",
            "model_name": "llama2-finetuned",
            "base_model": "meta-llama/Llama-2-7b-hf",
            "dataset_id": "ds_xyz789",
            "training_config": {"method": "qlora", "lora_r": 16, "learning_rate": 2e-4},
            "metrics": {"accuracy": 0.92, "f1": 0.89, "final_loss": 0.42},
            "exports": {"adapter": "s3://artifacts/abc123/adapter", "merged": "s3://artifacts/abc123/merged"},
            "created_at": "2025-12-13T01:00:00Z",
        },
    ),
    (LogLine, {"run_id": "abc123", "agent_name": None, **LINE, "step": 100, "epoch": 1, "loss": 1.85}),
    (LogHistory, {"run_id": "abc123", "logs": [{"run_id": "abc123", "agent_name": "train", **LINE}], "total": 2, "next_cursor": None}),
    (
        ErrorBody,
        {"error": "VALIDATION_ERROR", "message": "m", "metadata": {"errors": [{"field": "file_path", "message": "field required"}]}},
    ),
    (Page, {"items": [], "total": 150, "limit": 20, "offset": 40, "has_more": True}),
]


@pytest.mark.parametrize(("kind", "example"), EXAMPLES, ids=lambda value: value.__name__ if isinstance(value, type) else "")
def test_the_specifications_examples(kind: type[Resource], example: dict[str, Any]) -> None:
    assert kind.model_validate(example).model_dump(mode="json", exclude_unset=True) == example


@pytest.mark.parametrize("kind", [kind for kind in error_classes() if kind.status != 416], ids=lambda kind: kind.__name__)
def test_errors_cross_processes(kind: type[PlatformError]) -> None:
    again = from_body(kind("m", a=1).body())
    assert type(again) is kind and (again.message, again.metadata) == ("m", {"a": 1})


def test_an_unknown_error_is_still_an_error() -> None:
    assert type(from_body({"error": "NEW", "message": "m"})) is PlatformError
    assert str(DatasetError("m")) == "m"


def test_problems_name_the_path_and_the_nearest_field() -> None:
    class Inner(Spec):
        rate: float

    class Outer(Spec):
        inner: list[Inner] = []
        name: str = ""

    assert problems(Outer, {"inner": [{"rate": 1.0}]}) == []
    found = {item["field"]: item["message"] for item in problems(Outer, {"inner": [{"rat": 1}, {"rate": True}], "nome": "x"}, "top")}
    assert "did you mean 'rate'" in found["top.inner.0.rat"] and found["top.inner.0.rate"] == "field required"
    assert "did you mean 'name'" in found["top.nome"] and "top.inner.1.rate" in found
