"""The list of models: which of them, and in which order, as a client asks for it in a URL."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from llm_platform.database import Database
from llm_platform.errors import InvalidInput
from llm_platform.specs.agents import METRICS
from llm_platform.statements import Listing, list_of_models
from llm_platform.tables import models

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}", re.ASCII)
_ALIAS = re.compile(r"[A-Za-z0-9_.-]{1,255}", re.ASCII)
_COLUMNS: dict[str, sa.ColumnElement[Any]] = {"created_at": models.c.created_at, "name": models.c.model_name}
_TRAINING = ("final_loss", "validation_loss", "train_seconds", "train_tokens_per_second", "eos_rate")
_KNOWN = frozenset([*METRICS, *_TRAINING, *(f"base_{name}" for name in METRICS)])
"""Metrics that may be asked for even while no model has them."""


@dataclass(frozen=True)
class Threshold:
    """A metric that must be there and at least, or at most, a value."""

    metric: str
    value: float
    least: bool


@dataclass(frozen=True)
class ModelQuery:
    """Filters, all of which must hold, and `created_at`, `name` or a metric to sort by; a model without that metric comes last."""

    base_model: str | None = None
    name: str | None = None
    alias: str | None = None
    thresholds: tuple[Threshold, ...] = ()
    sort: str = "created_at"
    descending: bool = True


def parse_query(
    *,
    base_model: str | None = None,
    name: str | None = None,
    alias: str | None = None,
    min_metric: Sequence[str] = (),
    max_metric: Sequence[str] = (),
    sort: str = "-created_at",
) -> ModelQuery:
    """Raises InvalidInput, with every field that is wrong: `exact_match:0.8` is a threshold, `-exact_match` sorts from high to low."""
    errors: list[dict[str, Any]] = []
    thresholds: list[Threshold] = []
    for field, texts in (("min_metric", min_metric), ("max_metric", max_metric)):
        for text in texts:
            found = _threshold(text, field == "min_metric")
            if found is None:
                errors.append(_problem(field, f"'{text[:100]}' is not METRIC:NUMBER, such as exact_match:0.8"))
            else:
                thresholds.append(found)
    key = sort.removeprefix("-")
    if not _NAME.fullmatch(key):
        errors.append(_problem("sort", f"'{sort[:100]}' is not created_at, name or a metric, with '-' before it for descending order"))
    if alias is not None and not _ALIAS.fullmatch(alias):
        errors.append(_problem("alias", "an alias consists of letters, digits, '_', '.' and '-'"))
    if errors:
        raise InvalidInput("Input validation failed", errors=errors)
    return ModelQuery(base_model, name, alias, tuple(thresholds), key, sort.startswith("-"))


def list_models(query: ModelQuery, database: Database, limit: int, offset: int, owner: str | None) -> tuple[list[RowMapping], int]:
    """(the rows of one page, how many there are). Raises InvalidInput for a metric that no model has."""
    _check_metrics(query, database)
    return database.page(_listing(query, owner is not None), limit, offset, owner=owner)


@lru_cache(maxsize=64)
def _listing(query: ModelQuery, by_owner: bool) -> Listing:
    where = [models.c.base_model == query.base_model] if query.base_model is not None else []
    if query.name is not None:
        where.append(models.c.model_name == query.name)
    if query.alias is not None:
        where.append(models.c.aliases[query.alias].as_boolean().is_(True))
    for one in query.thresholds:
        value = models.c.metrics[one.metric].as_float()
        where.append(value >= one.value if one.least else value <= one.value)
    metric: sa.ColumnElement[Any] = models.c.metrics[query.sort].as_float()
    column = _COLUMNS.get(query.sort, metric)
    first = sa.nulls_last(column.desc() if query.descending else column.asc())
    return list_of_models(sa.and_(sa.true(), *where), by_owner, first, models.c.created_at.desc())


def _threshold(text: str, least: bool) -> Threshold | None:
    metric, colon, number = text.rpartition(":")
    try:
        value = float(number)
    except ValueError:
        return None
    return Threshold(metric, value, least) if colon and _NAME.fullmatch(metric) and math.isfinite(value) else None


def _check_metrics(query: ModelQuery, database: Database) -> None:
    """A metric that is misspelt would be a filter that lets nothing through, or an order that is none."""
    asked = [("min_metric" if one.least else "max_metric", one.metric) for one in query.thresholds]
    if query.sort not in _COLUMNS:
        asked.append(("sort", query.sort))
    if all(metric in _KNOWN for _, metric in asked):
        return
    with database.read() as connection:
        known = _KNOWN.union(*connection.execute(sa.select(models.c.metrics)).scalars())
    errors = [_problem(field, _unknown(metric, known)) for field, metric in asked if metric not in known]
    if errors:
        raise InvalidInput("Input validation failed", errors=errors)


def _unknown(metric: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(metric, sorted(known), n=1)
    return f"no model has the metric '{metric}'" + (f"; did you mean '{close[0]}'?" if close else "")


def _problem(field: str, message: str) -> dict[str, Any]:
    return {"field": field, "agent": None, "message": message}
