"""The statements that are asked all the time, built once: to build one takes SQLAlchemy longer than SQLite takes to answer it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from llm_platform.tables import datasets, models, nodes, submissions

OPEN = ("pending", "running")
"""States of jobs that have not ended, by which an index finds them among many thousands that have."""

_IDS = sa.bindparam("run_ids", expanding=True)


@dataclass(frozen=True)
class Listing:
    """A list: how many rows it has, and its rows from `offset` on, at most `limit`; its other parameters are values to compare with."""

    count: sa.Select[int]
    page: sa.Select[Any]

    @classmethod
    def of(cls, rows: sa.Select[Any], where: sa.ColumnElement[bool], *order: sa.ColumnElement[Any]) -> Listing:
        """The `rows` of one table for which `where` holds, in that order."""
        (table,) = rows.get_final_froms()
        page = rows.where(where).order_by(*order).limit(sa.bindparam("limit")).offset(sa.bindparam("offset"))
        return cls(sa.select(sa.func.count()).select_from(table).where(where), page)


def equal(column: sa.Column[Any], asked: bool) -> sa.ColumnElement[bool]:
    """Whether a column has the value of the parameter of its name; true where nobody asked."""
    return column == sa.bindparam(column.name) if asked else sa.true()


SUBMISSION = sa.select(submissions).where(submissions.c.run_id == sa.bindparam("run_id"))
OPEN_SUBMISSIONS = sa.select(submissions).where(submissions.c.status.in_(OPEN)).order_by(submissions.c.created_at)
NODES = sa.select(nodes).where(nodes.c.run_id.in_(_IDS)).order_by(nodes.c.started_at)
MODELS_OF_RUNS = sa.select(models.c.run_id, models.c.model_id).where(models.c.run_id.in_(_IDS)).order_by(models.c.created_at)

_DATASETS = sa.select(*(c for c in datasets.c if c.name != "profile"), datasets.c.profile["analysis"].label("analysis"))
"""Of their profiles the analysis alone: a profile holds rows, which may be long."""
DATASET_SHOWN = _DATASETS.where(datasets.c.dataset_id == sa.bindparam("dataset_id"))


@cache
def list_of_submissions(by_status: bool, by_owner: bool, by_after: bool, by_before: bool) -> Listing:
    """Newest first; created from `created_after` on, and before `created_before`."""
    created = submissions.c.created_at
    where = sa.and_(
        equal(submissions.c.status, by_status),
        equal(submissions.c.owner, by_owner),
        created >= sa.bindparam("created_after") if by_after else sa.true(),
        created < sa.bindparam("created_before") if by_before else sa.true(),
    )
    return Listing.of(sa.select(submissions), where, submissions.c.created_at.desc(), submissions.c.run_id)


@cache
def list_of_datasets(by_owner: bool) -> Listing:
    """Newest first."""
    return Listing.of(_DATASETS, equal(datasets.c.owner, by_owner), datasets.c.created_at.desc(), datasets.c.dataset_id)


def list_of_models(where: sa.ColumnElement[bool], by_owner: bool, *order: sa.ColumnElement[Any]) -> Listing:
    """In that order. A model belongs to whom its job belongs."""
    if by_owner:
        owned = sa.select(submissions.c.run_id).where(submissions.c.owner == sa.bindparam("owner"))
        where = sa.and_(where, models.c.run_id.in_(owned))
    return Listing.of(sa.select(models), where, *order, models.c.model_id)
