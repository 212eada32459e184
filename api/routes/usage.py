"""What a user has, and may have."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import CallerDep, ServicesDep
from llm_platform import quotas
from llm_platform.specs.resources import Usage

router = APIRouter(prefix="/usage", tags=["operation"])


@router.get("")
def get(services: ServicesDep, caller: CallerDep) -> Usage:
    """How much of each quota the caller has used; a `limit` of null is none. Without authentication all is one user's."""
    return quotas.usage(caller.owner, services.settings, services.database)
