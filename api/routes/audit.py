"""The audit log, for admins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, AwareDatetime, BeforeValidator

from api.deps import PageDep, ServicesDep, admin
from llm_platform import audit
from llm_platform.specs.audit import AuditAction, AuditEntry
from llm_platform.specs.keys import USER
from llm_platform.specs.resources import Page

router = APIRouter(prefix="/audit", tags=["operation"], dependencies=[Depends(admin)])


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time is before or after all that there are in UTC") from None


def _no_number(value: object) -> object:
    """Pydantic would take a number for seconds since 1970."""
    if isinstance(value, str) and value.lstrip("+-").replace(".", "", 1).isdigit():
        raise ValueError("a date and a time with its zone are expected: 2026-01-31T12:00:00Z")
    return value


Since = Annotated[AwareDatetime, BeforeValidator(_no_number), AfterValidator(_in_utc)]


@router.get("")
def list_entries(
    services: ServicesDep,
    page: PageDep,
    actor: Annotated[str | None, Query(pattern=USER, description="Only what this user did.")] = None,
    action: Annotated[AuditAction | None, Query(description="Only this.")] = None,
    since: Annotated[Since | None, Query(description="Only from this time on, with its zone: 2026-01-31T12:00:00Z.")] = None,
) -> Page[AuditEntry]:
    """Who did what, newest first."""
    found, total = audit.listed(services.database, page.limit, page.offset, actor=actor, action=action, since=since)
    return Page(items=found, **page.bounds(total))
