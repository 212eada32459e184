"""The log of a run: one append-only table, one increasing cursor per run, one writer and one reader for everything.

`seq` comes from a per-run counter in the inserting transaction, so a reader that saw n has seen all up to n: an
auto-increment column would lose lines on Postgres, where commits overtake each other.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from llm_platform.database import Database, now
from llm_platform.errors import InvalidInput
from llm_platform.tables import log_cursors, log_lines

FLUSH_SECONDS = 0.1
PROGRESS_SECONDS = 5.0
FORWARD_METRIC_SECONDS = 5.0
MAX_MESSAGE = 8_000
Line = dict[str, Any]


def append(database: Database, run_id: str, lines: list[Line]) -> int:
    """Writes lines (keys timestamp, agent, agent_name, level, message, data) in one transaction; the last `seq`."""
    with database.write() as connection:
        counter = database._insert(log_cursors).values(run_id=run_id, last_seq=len(lines))
        counter = counter.on_conflict_do_update(index_elements=["run_id"], set_={"last_seq": log_cursors.c.last_seq + len(lines)})
        last = connection.execute(counter.returning(log_cursors.c.last_seq)).scalar_one()
        first = last - len(lines) + 1
        connection.execute(sa.insert(log_lines), [{**line, "run_id": run_id, "seq": first + i} for i, line in enumerate(lines)])
    return last


def line(level: str, message: str, /, *, agent: str | None = None, agent_name: str | None = None, **data: Any) -> Line:
    """A line as `append` takes it. Text that no JSON can hold and figures that are no numbers are made harmless."""
    clean = {name: _harmless(value) for name, value in data.items()}
    return {
        "timestamp": now(),
        "agent": agent,
        "agent_name": agent_name,
        "level": level,
        "message": _text(message[:MAX_MESSAGE]),
        "data": clean,
    }


def _text(text: str) -> str:
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _harmless(value: Any) -> Any:
    """The value as every JSON reader and database takes it; what JSON has no form for becomes text."""
    if isinstance(value, str):
        return _text(str(value))
    if isinstance(value, dict):
        return {_text(str(name)): _harmless(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_harmless(inner) for inner in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    return _text(str(value))


@dataclass(frozen=True)
class LineFilter:
    """Which lines a reader wants: of these levels, and of these agents, by class or by the node's name; an empty set means all."""

    levels: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()

    def takes(self, level: str, agent: str | None, agent_name: str | None) -> bool:
        return (not self.levels or level in self.levels) and (not self.agents or agent in self.agents or agent_name in self.agents)

    def where(self) -> sa.ColumnElement[bool]:
        """The same in SQL."""
        agents = sa.or_(log_lines.c.agent.in_(self.agents), log_lines.c.agent_name.in_(self.agents)) if self.agents else sa.true()
        return sa.and_(log_lines.c.level.in_(self.levels) if self.levels else sa.true(), agents)


ALL = LineFilter()


def read(database: Database, run_id: str, *, after: int = 0, limit: int = 1000, only: LineFilter = ALL) -> list[tuple[int, Line]]:
    """Lines behind `after`, in order, as (seq, public line)."""
    query = sa.select(log_lines).where(log_lines.c.run_id == run_id, log_lines.c.seq > after, only.where())
    query = query.order_by(log_lines.c.seq).limit(limit)
    with database.read() as connection:
        return [(row["seq"], _public(dict(row))) for row in connection.execute(query).mappings()]


def count(database: Database, run_id: str, only: LineFilter = ALL) -> int:
    """How many lines of a run a reader wants."""
    if only == ALL:
        return last_seq(database, run_id)
    query = sa.select(sa.func.count()).select_from(log_lines).where(log_lines.c.run_id == run_id, only.where())
    with database.read() as connection:
        return connection.execute(query).scalar_one()


def last_seq(database: Database, run_id: str) -> int:
    """How many lines the run has."""
    with database.read() as connection:
        return connection.execute(sa.select(log_cursors.c.last_seq).where(log_cursors.c.run_id == run_id)).scalar() or 0


def parse_cursor(run_id: str, cursor: str) -> int:
    """The `seq` in a cursor `run_id:seq`. Raises InvalidInput if it is none of this run."""
    owner, _, seq = cursor.rpartition(":")
    if owner != run_id or not (seq.isascii() and seq.isdigit()) or len(seq) > 18:
        raise InvalidInput("The cursor is not one of this run", errors=[{"field": "cursor", "message": f"expected '{run_id}:<number>'"}])
    return int(seq)


def _public(row: dict[str, Any]) -> Line:
    stamp: datetime = row["timestamp"]
    known = {
        "run_id": row["run_id"],
        "timestamp": stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "agent": row["agent"],
        "agent_name": row["agent_name"],
        "level": row["level"],
        "message": row["message"],
    }
    return known | {name: value for name, value in row["data"].items() if name not in known}


class RunLogReporter:
    """A `Reporter` that writes to a run's log in batches; `forward` gets what Dagster's UI should show too.

    Use it as a context manager: leaving it writes what is left. A database that is away for a while delays lines, it
    does not lose them, and never stops the work.
    """

    def __init__(
        self, database: Database, run_id: str, agent: str | None, agent_name: str | None, forward: Callable[[str, str], None] | None = None
    ) -> None:
        self._database = database
        self._run_id = run_id
        self._who = {"agent": agent, "agent_name": agent_name}
        self._forward = forward
        self._buffer: list[Line] = []
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._progress_at = time.monotonic()
        self._metric_at = 0.0
        self._thread = threading.Thread(target=self._loop, name="runlog", daemon=True)
        self._thread.start()

    def __enter__(self) -> RunLogReporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def info(self, message: str, **data: Any) -> None:
        self._add("INFO", message, data, forward=True)

    def warn(self, message: str, **data: Any) -> None:
        self._add("WARN", message, data, forward=True)

    def error(self, message: str, **data: Any) -> None:
        self._add("ERROR", message, data, forward=True)

    def metric(self, message: str, *, step: int, epoch: float, **values: float) -> None:
        due = time.monotonic() - self._metric_at >= FORWARD_METRIC_SECONDS
        if due:
            self._metric_at = time.monotonic()
        self._add("METRIC", message, {"step": step, "epoch": epoch, **values}, forward=due)

    def progress(self, done: int, total: int, what: str) -> None:
        """A line every few seconds; training says more by its metrics."""
        if time.monotonic() - self._progress_at >= PROGRESS_SECONDS and what != "steps":
            self._progress_at = time.monotonic()
            self._add("INFO", f"{what}: {done:,} of {total:,} ({100 * done // max(total, 1)}%)", {}, forward=False)

    def check_cancelled(self) -> None:
        """Cancelling reaches the process as a signal, which raises `Cancelled` by itself."""

    def _add(self, level: str, message: str, data: dict[str, Any], *, forward: bool) -> None:
        entry = line(level, message, **(data | self._who))
        with self._lock:
            self._buffer.append(entry)
        self._wake.set()
        if forward and self._forward is not None:
            shown = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in data.items()) if level == "METRIC" else ""
            self._forward(level, f"{message}  {shown}".rstrip())

    def _loop(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            self.flush()
            time.sleep(FLUSH_SECONDS)

    def flush(self) -> None:
        """Writes what is buffered; keeps it for the next time if the database does not take it."""
        with self._flushing:
            with self._lock:
                batch, self._buffer = self._buffer, []
            if not batch:
                return
            try:
                append(self._database, self._run_id, batch)
            except SQLAlchemyError:
                with self._lock:
                    self._buffer = batch + self._buffer
                self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=5)
        for _ in range(50):
            self.flush()
            if not self._buffer:
                return
            time.sleep(FLUSH_SECONDS)
