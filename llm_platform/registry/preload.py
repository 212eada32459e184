"""Importing this imports what the registry uses of MLflow, which takes two seconds."""

from mlflow import MlflowClient, entities
from mlflow.store.artifact import artifact_repository_registry, mlflow_artifacts_repo
from mlflow.store.tracking import rest_store

__all__ = ["MlflowClient", "artifact_repository_registry", "entities", "mlflow_artifacts_repo", "rest_store"]
