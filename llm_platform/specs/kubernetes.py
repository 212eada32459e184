"""What a step asks of Kubernetes, in the form that dagster-k8s takes, as a tag or in a run's config."""

from __future__ import annotations

from typing import Any


def gpu_container(count: int) -> dict[str, Any]:
    """A container with so many GPUs."""
    return {"container_config": {"resources": {"limits": {"nvidia.com/gpu": str(count)}}}}
