"""The audit log, for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.deps import Moment, PageDep, ServicesDep, admin
from llm_platform import audit
from llm_platform.specs.audit import AuditAction, AuditEntry
from llm_platform.specs.keys import USER
from llm_platform.specs.resources import Page

router = APIRouter(prefix="/audit", tags=["operation"], dependencies=[Depends(admin)])


@router.get("")
def list_entries(
    services: ServicesDep,
    page: PageDep,
    actor: Annotated[str | None, Query(pattern=USER, description="Only what this user did.")] = None,
    action: Annotated[AuditAction | None, Query(description="Only entries of this action.")] = None,
    since: Annotated[Moment | None, Query(description="Only from this time on, with its zone: 2026-01-31T12:00:00Z.")] = None,
) -> Page[AuditEntry]:
    """Who did what, newest first."""
    found, total = audit.listed(services.database, page.limit, page.offset, actor=actor, action=action, since=since)
    return Page(items=found, **page.bounds(total))
