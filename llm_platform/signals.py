"""What a running job is asked for from outside: written into its submission by the API, read there by whoever works on the run.

`keep`: stop, but keep what training has so far as a model. `checkpoint`: write one now. The table is the only way there is from
any API process to any trainer, and it outlives both: a trainer that is killed before it did what it was asked is followed by one
that is still asked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from llm_platform.database import Database, now
from llm_platform.specs import AgentClass
from llm_platform.tables import nodes, submissions
from llm_platform.training.control import Asked

LISTEN_SECONDS = 0.5
"""How often a trainer looks: a query of a millisecond, in a thread beside the steps."""


def ask_to_keep(database: Database, run_id: str) -> list[str]:
    """Asks the training nodes that run now to stop and keep what they have; their names. Without any, nothing is asked."""
    with database.write() as connection:
        # Locked, so that none ends unasked between the two statements.
        query = sa.select(nodes.c.agent_name).where(_training(run_id)).order_by(nodes.c.agent_name).with_for_update()
        found = list(connection.execute(query).scalars())
        if found:
            connection.execute(sa.update(submissions).where(submissions.c.run_id == run_id).values(keep_requested=True))
    return found


def ask_for_checkpoint(database: Database, run_id: str) -> bool:
    """Asks the training node that runs now for a checkpoint. False if none runs."""
    query = sa.update(submissions).where(submissions.c.run_id == run_id, sa.exists().where(_training(run_id)))
    with database.write() as connection:
        return connection.execute(query.values(checkpoint_requested_at=now())).rowcount == 1


def keep_asked(database: Database, run_id: str) -> bool:
    """Whether the run is to end as soon as what training has is kept."""
    return _asked(database, run_id)[0]


def _training(run_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(nodes.c.run_id == run_id, nodes.c.agent_class == AgentClass.TRAINING.value, nodes.c.status == "running")


def _asked(database: Database, run_id: str) -> tuple[bool, datetime | None]:
    """(whether to stop and keep, when the checkpoint was asked for that is not written yet)."""
    query = sa.select(submissions.c.keep_requested, submissions.c.checkpoint_requested_at).where(submissions.c.run_id == run_id)
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    return (bool(row[0]), row[1]) if row else (False, None)


class Listener:
    """What the training of a run is asked (a `training.control.Control`), by a thread of its own that looks into the table."""

    def __init__(self, database: Database, run_id: str, *, stop: bool = False) -> None:
        self._database = database
        self._run_id = run_id
        self._stop = stop
        self._requested: datetime | None = None
        self._answering: datetime | None = None
        self._answered: datetime | None = None
        self._closed = threading.Event()
        self._look()  # what was asked before this process was there counts from the first step
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def asked(self) -> Asked:
        if self._stop:
            return Asked.STOP
        self._answering = self._requested
        return Asked.NOTHING if self._answering in (None, self._answered) else Asked.CHECKPOINT

    def saved(self) -> None:
        """The table hears of it at the thread's next look."""
        self._answered = self._answering

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._look()

    def _listen(self) -> None:
        while not self._closed.wait(LISTEN_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            stop, requested = _asked(self._database, self._run_id)
            self._stop = self._stop or stop
            answered = self._answered
            if requested is not None and requested == answered:
                self._forget(requested)
            self._requested = requested
        except SQLAlchemyError:
            return  # the database is away: training goes on, and the next look is soon

    def _forget(self, requested: datetime) -> None:
        """Only this request: a later one stays."""
        asked = sa.and_(submissions.c.run_id == self._run_id, submissions.c.checkpoint_requested_at == requested)
        with self._database.write() as connection:
            connection.execute(sa.update(submissions).where(asked).values(checkpoint_requested_at=None))


@contextmanager
def listening(database: Database, run_id: str, *, stop: bool = False) -> Iterator[Listener]:
    """A listener for as long as the block runs; with `stop` it asks to stop by itself."""
    listener = Listener(database, run_id, stop=stop)
    try:
        yield listener
    finally:
        listener.close()
