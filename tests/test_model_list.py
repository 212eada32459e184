"""The list of models in SQL: the same answers from SQLite and from Postgres."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llm_platform.database import Database
from llm_platform.errors import InvalidInput
from llm_platform.model_list import list_models, parse_query

pytest_plugins = ["tests.databases"]

START = datetime(2026, 11, 24, tzinfo=UTC)


def found(database: Database, **asked: Any) -> tuple[str, int]:
    rows, total = list_models(parse_query(**asked), database, 2, 0, None)
    return "".join(row["model_id"] for row in rows), total


def test_filters_order_and_count(database: Database) -> None:
    for number, (name, metrics, aliases) in enumerate(
        [("t", {"accuracy": 0.5, "a.b": 1.0}, {"champion": True}), ("t", {"accuracy": 0.9}, {}), ("u", {"loss": 2.0}, None)]
    ):
        common = {"run_id": "r", "base_model": "b", "exports": {}, "created_at": START + timedelta(minutes=number)}
        database.put_model(model_id="xyz"[number], model_name=name, metrics=metrics, aliases=aliases, **common)
    assert found(database) == ("zy", 3)
    assert found(database, alias="champion") == ("x", 1) and found(database, name="t") == ("yx", 2)
    assert found(database, min_metric=["accuracy:0.6"]) == ("y", 1) and found(database, max_metric=["a.b:1"]) == ("x", 1)
    assert found(database, sort="-accuracy") == ("yx", 3) and found(database, sort="accuracy") == ("xy", 3)
    assert found(database, sort="-name") == ("zy", 3) and found(database, sort="created_at") == ("xy", 3)
    with pytest.raises(InvalidInput) as caught:
        found(database, sort="lost", min_metric=["x.y:1"])
    assert [error["field"] for error in caught.value.metadata["errors"]] == ["min_metric", "sort"]
