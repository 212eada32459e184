"""Reads and writes of the platform's own tables (`llm_platform.tables`).

What a client was told is accepted is in here before it is told.
Times are UTC. The state of a job is Dagster's to say; of it only the final state is copied here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, RowMapping

from llm_platform import statements
from llm_platform.connections import Connections
from llm_platform.tables import datasets, models, nodes, submissions, upload_keys

FINAL = ("completed", "failed", "cancelled")
UNASKED: dict[str, Any] = {"cancel_requested": False, "keep_requested": None, "checkpoint_requested_at": None}
"""A submission whose new run nobody has asked for anything yet."""

Check = Callable[[Connection], None]
"""Called in the transaction, after the insertion; what it raises takes the insertion back."""


def _no_check(_: Connection) -> None:
    return


LONGEST_CLAIM = timedelta(minutes=15)  # one that goes on for longer was made before the clock was set back


def now() -> datetime:
    return datetime.now(UTC)


def _free() -> sa.ColumnElement[bool]:
    """Whether no process holds a claim on a submission."""
    until = submissions.c.claimed_until
    return sa.or_(until.is_(None), sa.not_(until.between(now(), now() + LONGEST_CLAIM)))


def _equal(column: sa.Column[Any], value: str | None) -> sa.ColumnElement[bool]:
    return sa.true() if value is None else column == value


class Database(Connections):
    """Where a list takes an `owner`, it is of what belongs to that user alone; of everything if that is None."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._insert: Any = sqlite.insert if self.is_file else postgresql.insert

    # submissions

    def accept(
        self, run_id: str, *, dagster_run_id: str, digest: str, pipeline: dict[str, Any], owner: str | None = None, check: Check = _no_check
    ) -> tuple[RowMapping, bool]:
        """Inserts a submission, or finds the one of that run id; (row, whether it is new). One for which `check` raises is not kept."""
        row = dict(run_id=run_id, dagster_run_id=dagster_run_id, source="api", digest=digest, pipeline=pipeline)
        row |= dict(status="pending", cancel_requested=False, submitted=False, attempts=0, created_at=now(), owner=owner)
        with self.write() as connection:
            done = connection.execute(self._insert(submissions).values(row).on_conflict_do_nothing())
            if done.rowcount == 1:
                check(connection)
            found = connection.execute(sa.select(submissions).where(submissions.c.run_id == run_id)).mappings().one()
        return found, done.rowcount == 1

    def adopt(self, run_id: str, *, dagster_run_id: str, created_at: datetime) -> None:
        """A run that was launched in the Dagster UI becomes a job; a newer run of a known job becomes its run."""
        row = dict(run_id=run_id, dagster_run_id=dagster_run_id, source="dagster", digest="", status="pending")
        row |= dict(submitted=True, attempts=0, created_at=created_at, **UNASKED)
        with self.write() as connection:
            connection.execute(self._insert(submissions).values(row).on_conflict_do_nothing())
            connection.execute(
                sa.update(submissions)
                .where(submissions.c.run_id == run_id, submissions.c.dagster_run_id != dagster_run_id)
                .values(dagster_run_id=dagster_run_id, status="pending", submitted=True, error=None, ended_at=None, **UNASKED)
            )

    def claim(self, limit: int, lease: float) -> list[RowMapping]:
        """Submissions that are not yet Dagster runs, claimed for `lease` seconds so that one process makes each.

        One that was asked to stop is left for `withdraw`.
        """
        open_ = sa.and_(submissions.c.submitted.is_(False), submissions.c.status == "pending", _free())
        with self.write() as connection:
            query = (
                sa.select(submissions)
                .where(open_, submissions.c.cancel_requested.is_(False))
                .order_by(submissions.c.created_at)
                .limit(limit)
            )
            rows = connection.execute(query.with_for_update(skip_locked=True)).mappings().all()
            ids = [row["run_id"] for row in rows]
            connection.execute(
                sa.update(submissions)
                .where(submissions.c.run_id.in_(ids))
                .values(claimed_until=now() + timedelta(seconds=lease), attempts=submissions.c.attempts + 1)
            )
        return list(rows)

    def renew(self, run_ids: Sequence[str], lease: float) -> None:
        """Makes claims last for `lease` seconds from now, those that are still needed."""
        mine = sa.and_(submissions.c.run_id.in_(run_ids), submissions.c.submitted.is_(False), submissions.c.claimed_until > now())
        with self.write() as connection:
            connection.execute(sa.update(submissions).where(mine).values(claimed_until=now() + timedelta(seconds=lease)))

    def update_submission(self, run_id: str, *, only_open: bool = False, of_run: str | None = None, **values: Any) -> bool:
        """Sets columns of one submission; with `only_open` only while its status is not final, with `of_run` only while that is
        its Dagster run. True if a row changed."""
        query = sa.update(submissions).where(submissions.c.run_id == run_id, _equal(submissions.c.dagster_run_id, of_run))
        if only_open:
            query = query.where(submissions.c.status.not_in(FINAL))
        with self.write() as connection:
            return connection.execute(query.values(**values)).rowcount == 1

    def withdraw(self, run_id: str) -> bool:
        """Cancels a submission that no process holds a claim on, so that it never becomes a Dagster run. True if it did."""
        open_ = sa.and_(submissions.c.submitted.is_(False), submissions.c.status == "pending", _free())
        query = sa.update(submissions).where(submissions.c.run_id == run_id, open_)
        with self.write() as connection:
            return connection.execute(query.values(status="cancelled", cancel_requested=True, ended_at=now())).rowcount == 1

    def finish(
        self,
        run_id: str,
        dagster_run_id: str,
        status: str,
        *,
        started_at: datetime | None,
        ended_at: datetime | None,
        error: dict[str, Any] | None = None,
    ) -> None:
        """Copies the final state of a job's Dagster run, once; a job that meanwhile has a newer run is left alone.

        A run that did not complete after its job was asked to stop is `cancelled`, whatever Dagster calls it. Nodes that
        never said how they ended get the job's status.
        """
        mine = sa.and_(submissions.c.run_id == run_id, submissions.c.dagster_run_id == dagster_run_id, submissions.c.status.not_in(FINAL))
        lost = {"error": "INTERNAL_ERROR", "message": "The process that ran this node ended without saying why", "metadata": {}}
        with self.write() as connection:
            asked = sa.select(submissions.c.cancel_requested, submissions.c.keep_requested).where(mine).with_for_update()
            found = connection.execute(asked).one_or_none()
            if found is None:
                return
            if any(found) and status == "failed":
                status, error = "cancelled", None
            values = dict(status=status, started_at=started_at, ended_at=ended_at or now(), error=error, submitted=True)
            connection.execute(sa.update(submissions).where(mine).values(**values))
            if status != "completed":
                connection.execute(
                    sa.update(nodes)
                    .where(nodes.c.run_id == run_id, nodes.c.status == "running")
                    .values(status=status, ended_at=ended_at or now(), error=(error or lost) if status == "failed" else None)
                )

    def retry(self, run_id: str, *, dagster_run_id: str, instead_of: str, check: Check = _no_check) -> bool:
        """Makes an ended job that did not complete a submission again, for a new Dagster run. True for one of several at once.

        Its nodes that did not complete wait again; those that did keep what they made.
        """
        ended = sa.and_(submissions.c.run_id == run_id, submissions.c.status.in_(("failed", "cancelled")), _free())
        again = dict(dagster_run_id=dagster_run_id, status="pending", submitted=False, claimed_until=None, **UNASKED)
        again |= dict(attempts=0, error=None, started_at=None, ended_at=None, retried_at=now())
        undone = sa.and_(nodes.c.run_id == run_id, nodes.c.status.in_(("failed", "cancelled")))
        with self.write() as connection:
            done = connection.execute(sa.update(submissions).where(ended, submissions.c.dagster_run_id == instead_of).values(**again))
            if done.rowcount == 1:
                check(connection)
                connection.execute(sa.update(nodes).where(undone).values(status="pending", result=None, error=None, ended_at=None))
            return done.rowcount == 1

    def hold(self, run_id: str, lease: timedelta) -> bool:
        """Keeps an ended job from being tried again until `release`, at most for `lease`. True for one of several at once."""
        query = sa.update(submissions).where(submissions.c.run_id == run_id, submissions.c.status.in_(FINAL), _free())
        with self.write() as connection:
            return connection.execute(query.values(claimed_until=now() + lease)).rowcount == 1

    def release(self, run_id: str) -> None:
        self.update_submission(run_id, claimed_until=None)

    def pipelines_with(self, text: str) -> list[RowMapping]:
        """Run id, status and pipeline of the submissions whose pipeline has that text somewhere."""
        found = sa.cast(submissions.c.pipeline, sa.Text).contains(text, autoescape=True)
        query = sa.select(submissions.c.run_id, submissions.c.status, submissions.c.pipeline).where(found)
        with self.read() as connection:  # SQLite finds it in another case, too
            return [row for row in connection.execute(query).mappings() if text in json.dumps(row["pipeline"])]

    def submission(self, run_id: str) -> RowMapping | None:
        with self.read() as connection:
            return connection.execute(statements.SUBMISSION, {"run_id": run_id}).mappings().one_or_none()

    def owner_of_run(self, run_id: str) -> str | None:
        """To whom a run's job, log and models belong."""
        with self.read() as connection:
            return connection.execute(sa.select(submissions.c.owner).where(submissions.c.run_id == run_id)).scalar()

    def open_submissions(self) -> list[RowMapping]:
        """Those whose final state is not yet known here, oldest first."""
        with self.read() as connection:
            return list(connection.execute(statements.OPEN_SUBMISSIONS).mappings())

    def list_submissions(
        self,
        limit: int,
        offset: int,
        status: str | None = None,
        *,
        owner: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
    ) -> tuple[list[RowMapping], int]:
        """(newest first, how many there are); those created from `after` on, and before `before`."""
        asked = (item is not None for item in (status, owner, after, before))
        listing = statements.list_of_submissions(*asked)
        return self.page(listing, limit, offset, status=status, owner=owner, created_after=after, created_before=before)

    def count_submissions(self) -> dict[str, int]:
        """How many there are in each state."""
        query = sa.select(submissions.c.status, sa.func.count().label("number")).group_by(submissions.c.status)
        with self.read() as connection:
            return {row.status: row.number for row in connection.execute(query)}

    def count_queued(self) -> int:
        """How many are not yet Dagster runs."""
        waiting = sa.and_(submissions.c.submitted.is_(False), submissions.c.status == "pending")
        with self.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(submissions).where(waiting)).scalar_one()

    # nodes

    def start_node(self, run_id: str, agent_name: str, agent_class: str, digest: str) -> None:
        row = dict(run_id=run_id, agent_name=agent_name, agent_class=agent_class, digest=digest, status="running", started_at=now())
        again = dict(digest=digest, status="running", started_at=row["started_at"], ended_at=None, result=None, error=None)
        with self.write() as connection:
            connection.execute(
                self._insert(nodes)
                .values(**row, attempts=1)
                .on_conflict_do_update(index_elements=["run_id", "agent_name"], set_=again | {"attempts": nodes.c.attempts + 1})
            )

    def end_node(
        self, run_id: str, agent_name: str, status: str, *, result: dict[str, Any] | None = None, error: dict[str, Any] | None = None
    ) -> None:
        with self.write() as connection:
            connection.execute(
                sa.update(nodes)
                .where(nodes.c.run_id == run_id, nodes.c.agent_name == agent_name)
                .values(status=status, result=result, error=error, ended_at=now())
            )

    def spoil_node(self, run_id: str, agent_name: str, result: dict[str, Any]) -> None:
        """What is left of a node's result; with no digest, it is no longer a result that a retry could use."""
        with self.write() as connection:
            mine = sa.and_(nodes.c.run_id == run_id, nodes.c.agent_name == agent_name)
            connection.execute(sa.update(nodes).where(mine).values(digest="", result=result))

    def nodes(self, run_ids: Sequence[str]) -> dict[str, list[RowMapping]]:
        """The nodes of each run, in the order they started."""
        found: dict[str, list[RowMapping]] = {run_id: [] for run_id in run_ids}
        with self.read() as connection:
            for row in connection.execute(statements.NODES, {"run_ids": run_ids}).mappings().all():
                found[row["run_id"]].append(row)
        return found

    def node(self, run_id: str, agent_name: str) -> RowMapping | None:
        query = sa.select(nodes).where(nodes.c.run_id == run_id, nodes.c.agent_name == agent_name)
        with self.read() as connection:
            return connection.execute(query).mappings().one_or_none()

    def last_run_of(self, agent_class: str) -> str | None:
        """The run whose node of that class started last."""
        query = sa.select(nodes.c.run_id).where(nodes.c.agent_class == agent_class).order_by(nodes.c.started_at.desc()).limit(1)
        with self.read() as connection:
            return connection.execute(query).scalar()

    # datasets

    def add_dataset(self, *, key: str | None = None, check: Check = _no_check, **row: Any) -> str:
        """The id of the dataset: the row's, or that of an earlier one for which the same key (`idempotency.key_digest`) stands."""
        with self.write() as connection:
            if key is not None:
                values = {"digest": key, "dataset_id": row["dataset_id"]}
                connection.execute(self._insert(upload_keys).values(values).on_conflict_do_nothing())
                first = connection.execute(sa.select(upload_keys.c.dataset_id).where(upload_keys.c.digest == key)).scalar_one()
                if first != row["dataset_id"]:
                    return first
            connection.execute(sa.insert(datasets).values(**row, recorded=False, created_at=now()))
            check(connection)
        return row["dataset_id"]

    def dataset_of_key(self, key: str) -> RowMapping | None:
        """The dataset for which an Idempotency-Key's digest stands."""
        query = sa.select(datasets).join(upload_keys, upload_keys.c.dataset_id == datasets.c.dataset_id)
        with self.read() as connection:
            return connection.execute(query.where(upload_keys.c.digest == key)).mappings().one_or_none()

    def dataset(self, dataset_id: str) -> RowMapping | None:
        with self.read() as connection:
            return connection.execute(sa.select(datasets).where(datasets.c.dataset_id == dataset_id)).mappings().one_or_none()

    def dataset_shown(self, dataset_id: str) -> RowMapping | None:
        """The same, of its profile the analysis alone."""
        with self.read() as connection:
            return connection.execute(statements.DATASET_SHOWN, {"dataset_id": dataset_id}).mappings().one_or_none()

    def list_datasets(self, limit: int, offset: int, *, owner: str | None = None) -> tuple[list[RowMapping], int]:
        """(newest first, of whose profiles the analysis alone, how many there are)."""
        return self.page(statements.list_of_datasets(owner is not None), limit, offset, owner=owner)

    def unrecorded_datasets(self) -> list[RowMapping]:
        with self.read() as connection:
            return list(connection.execute(sa.select(datasets).where(datasets.c.recorded.is_(False))).mappings())

    def mark_recorded(self, dataset_id: str) -> None:
        with self.write() as connection:
            connection.execute(sa.update(datasets).where(datasets.c.dataset_id == dataset_id).values(recorded=True))

    # models

    def put_model(self, **row: Any) -> None:
        changed = {name: value for name, value in row.items() if name not in ("model_id", "created_at")}
        with self.write() as connection:
            connection.execute(self._insert(models).values(row).on_conflict_do_update(index_elements=["model_id"], set_=changed))

    def model(self, model_id: str) -> RowMapping | None:
        with self.read() as connection:
            return connection.execute(sa.select(models).where(models.c.model_id == model_id)).mappings().one_or_none()

    def models_of(self, run_ids: Sequence[str]) -> dict[str, list[str]]:
        """Model ids of each run, oldest first."""
        found: dict[str, list[str]] = {run_id: [] for run_id in run_ids}
        with self.read() as connection:
            for run_id, model_id in connection.execute(statements.MODELS_OF_RUNS, {"run_ids": run_ids}):
                found[run_id].append(model_id)
        return found

    def delete_models(self, model_ids: Iterable[str]) -> None:
        with self.write() as connection:
            connection.execute(sa.delete(models).where(models.c.model_id.in_(list(model_ids))))
