"""Health, for people, supervisors and load balancers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from api.deps import ServicesDep
from api.errors import RESPONSES
from llm_platform.specs.resources import ErrorBody, Health

router = APIRouter(tags=["health"])

# The path without a prefix has its router's answers only.
_ANSWERS: dict[int | str, dict[str, Any]] = {
    **RESPONSES,
    503: {
        "model": Health | ErrorBody,
        "description": "A service does not work; or, with an error as its body, the platform is being restarted.",
    },
}


@router.get("/health", responses=_ANSWERS)
async def health(response: Response, services: ServicesDep) -> Health:
    """Whether the platform and each of its services work; the status is 503 when one does not."""
    found = await services.health.health()
    response.status_code = 200 if found.status == "healthy" else 503
    return found
