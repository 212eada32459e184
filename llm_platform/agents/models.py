"""The projection of the registry in the platform's database, kept in step by whoever changes a model."""

from __future__ import annotations

from llm_platform.agents.node import Platform
from llm_platform.errors import StorageError
from llm_platform.models import projection


def project(platform: Platform, model_id: str) -> None:
    """Copies what the lists of the REST API show of a model; MLflow stays the truth."""
    model = platform.registry.get(model_id)
    if model is None:
        raise StorageError(f"The registry does not know '{model_id}', which was just written")
    platform.database.put_model(**projection(model))
