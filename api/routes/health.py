"""Health, for people, supervisors and load balancers."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.deps import ServicesDep
from llm_platform.specs.resources import Health

router = APIRouter(tags=["health"])


@router.get("/health", responses={503: {"model": Health}})
async def health(response: Response, services: ServicesDep) -> Health:
    """Whether the platform and each of its services work; the status is 503 when one does not."""
    found = await services.health.health()
    response.status_code = 200 if found.status == "healthy" else 503
    return found
