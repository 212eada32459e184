"""Reads of the database that are answered all the time: lists and single rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyio import CapacityLimiter, to_thread
from cachetools import LRUCache
from fastapi import Request, Response
from pydantic import BaseModel
from sqlalchemy.engine import RowMapping

from llm_platform.database import FINAL, Database

Refresh = Callable[[Sequence[RowMapping]], list[RowMapping]]
"""Submissions, with what Dagster says about those that have not ended."""

MAX_THREADS = 4
MAX_REMEMBERED = 128
LONGEST_REMEMBERED = 100_000
"""Characters: a page of a hundred jobs."""


class _WaitsError(Exception):
    """What is asked for is not in the database alone."""


class Reads:
    """Answers reads.

    What is in a SQLite file alone is read in the event loop: it waits for nothing, and to hand it to a thread, with Python's lock,
    takes longer than to read it. SQLite also says whether anything was written, so clients that ask again and again, as pages and
    waiting programs do, get the same answer for as long as nothing was.
    What comes over a network, or has to ask Dagster, is read in a thread, in one go: FastAPI would send it there up to three
    times, for dependencies, handler and validation (`benchmarks.api_reads`).
    """

    def __init__(self, database: Database, refresh: Refresh) -> None:
        self._database, self._refresh = database, refresh
        self._threads = CapacityLimiter(MAX_THREADS)
        self._remembered: LRUCache[object, tuple[int, str]] = LRUCache(MAX_REMEMBERED)

    async def answered(self, request: Request, read: Callable[[Refresh], BaseModel]) -> Response:
        """What `read` finds, as JSON. It depends on the database, the caller and the request's path and query, and on nothing else."""
        if self._database.is_file:
            try:
                return self._at_once(request, read)
            except _WaitsError:
                pass
        body = await to_thread.run_sync(lambda: _json(read(self._refresh)), limiter=self._threads)
        return Response(body, media_type="application/json")

    def _at_once(self, request: Request, read: Callable[[Refresh], BaseModel]) -> Response:
        asked = (request.state.caller, request.scope["path"], request.scope["query_string"])
        version = self._database.version()  # before it is read: what is written meanwhile makes it old, never the other way round
        known, body = self._remembered.get(asked, (None, ""))
        if known != version:
            body = _json(read(_ended))
            if len(body) <= LONGEST_REMEMBERED:
                self._remembered[asked] = (version, body)
        return Response(body, media_type="application/json")


def _json(found: BaseModel) -> str:
    return found.model_dump_json(by_alias=True)


def _ended(rows: Sequence[RowMapping]) -> list[RowMapping]:
    """Rows of which nobody else knows more. Raises _WaitsError."""
    if any(row["submitted"] and row["status"] not in FINAL for row in rows):
        raise _WaitsError
    return list(rows)
