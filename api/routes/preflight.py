"""Preflight: what a pipeline would do to its rows, before it is submitted."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter

from api.deps import CallerDep, JsonBody, ServicesDep
from llm_platform import preflight
from llm_platform.specs.preflight import Preflight, PreflightRequest

router = APIRouter(prefix="/preflight", tags=["jobs"])

# As for jobs: read by `JsonBody`, described here.
_BODY = {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{PreflightRequest.__name__}"}}}}


@router.post("", openapi_extra={"requestBody": _BODY})
async def check(body: JsonBody, services: ServicesDep, caller: CallerDep) -> Preflight:
    """Tries validation and preprocessing on the first rows: counts, tokens, loss masks, estimated steps, time and memory."""
    arguments = (body, services.settings, services.database, services.storage, caller)
    return await to_thread.run_sync(preflight.preflight, *arguments, limiter=services.conversions)
