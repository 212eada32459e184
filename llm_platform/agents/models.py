"""What several agents do with a trained model: finding its weights, and keeping its projection in the platform's database."""

from __future__ import annotations

from typing import Literal

from llm_platform.agents.node import Platform
from llm_platform.errors import StorageError
from llm_platform.models import projection
from llm_platform.specs.results import NodeResult

WEIGHTS: tuple[Literal["adapter", "model"], ...] = ("adapter", "model")
"""The artifacts of a training node that hold trained weights: an adapter, or a whole model."""


def project(platform: Platform, model_id: str) -> None:
    """Copies what the lists of the REST API show of a model; MLflow stays the truth."""
    model = platform.registry.get(model_id)
    if model is None:
        raise StorageError(f"The registry does not know '{model_id}', which was just written")
    platform.database.put_model(**projection(model))


def weights(result: NodeResult) -> tuple[Literal["adapter", "model"], str]:
    """Which of `WEIGHTS` a training node made, and its address."""
    return next((kind, result.artifacts[kind]) for kind in WEIGHTS if kind in result.artifacts)
