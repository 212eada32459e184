"""Reads of the database that are answered all the time: lists and single rows."""

from __future__ import annotations

from collections.abc import Callable

from anyio import to_thread
from fastapi import Response
from pydantic import BaseModel

from api.services import Services


async def answered(services: Services, read: Callable[[], BaseModel]) -> Response:
    """What `read` finds, as JSON. It goes to a thread once, with all that its answer needs.

    FastAPI would send it there up to three times (dependencies, handler, validation), and let forty of such threads hand Python's
    lock to each other, which takes longer than the reading (`benchmarks.api_reads`).
    """
    body = await to_thread.run_sync(lambda: read().model_dump_json(by_alias=True), limiter=services.reads)
    return Response(body, media_type="application/json")
