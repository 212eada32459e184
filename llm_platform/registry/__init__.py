"""Models: the registry (MLflow behind it) and the model card. Importing this does not import MLflow."""

from llm_platform.registry.card import card
from llm_platform.registry.metrics import MetricBuffer
from llm_platform.registry.models import DatasetInput, MetricPoint, RegisteredModel
from llm_platform.registry.registry import Registry

__all__ = ["DatasetInput", "MetricBuffer", "MetricPoint", "RegisteredModel", "Registry", "card"]
