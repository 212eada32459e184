"""Rules of a validation node that are known to fail are refused before the job is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llm_platform.acceptance import Checks
from llm_platform.agents import Platform
from llm_platform.errors import DatasetError, InvalidConfig
from llm_platform.settings import Settings
from llm_platform.specs import parse_pipeline

Accept = Callable[..., None]


@pytest.fixture
def accept(tmp_path: Path) -> Iterator[Accept]:
    """Checks a pipeline of a dataset with the columns q and a, unless `columns` says otherwise, and a validation of it."""
    platform = Platform.from_settings(Settings(home=tmp_path / "home"))
    platform.storage.put_bytes(b"q,a\n1,2\n", "s3://datasets/rows.csv")

    def check(rules: dict[str, Any], on_error: str = "fail", columns: Sequence[str] | None = ("q", "a")) -> None:
        config = {"file_path": "s3://datasets/rows.csv", "columns": None if columns is None else list(columns)}
        nodes = [
            {"agent_name": "rows", "agent_class": "DatasetAgent", "config": config},
            {"agent_name": "check", "agent_class": "ValidationAgent", "config": {"rules": rules, "on_error": on_error}},
        ]
        pipeline = parse_pipeline({"nodes": nodes, "edges": [{"from_agent": "rows", "to_agent": "check"}]})
        Checks(pipeline, platform.settings, platform.database, platform.storage).run()

    yield check
    platform.close()


@pytest.mark.parametrize("columns", [["q", "a"], None])
@pytest.mark.parametrize("on_error", ["fail", "drop", "warn"])
def test_a_bad_pattern_is_refused_in_every_mode(accept: Accept, columns: list[str] | None, on_error: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        accept({"columns": [{"column": "q", "pattern": "[0-9]"}, {"column": "a", "pattern": "[0-9"}]}, on_error, columns)
    (error,) = caught.value.metadata["errors"]
    assert (error["field"], error["agent"]) == ("rules.columns.1.pattern", "check")


@pytest.mark.parametrize("rules", [{"required_columns": ["q", "b"]}, {"columns": [{"column": "q"}, {"column": "b"}]}])
def test_a_missing_column_is_refused_where_it_would_stop_the_job(accept: Accept, rules: dict[str, Any]) -> None:
    for on_error in ("fail", "drop"):
        with pytest.raises(DatasetError) as caught:
            accept(rules, on_error)
        (error,) = caught.value.metadata["errors"]
        assert error["field"] in ("rules.required_columns.1", "rules.columns.1.column")
        assert error["agent"] == "check"
    accept(rules, "warn")
    accept(rules, "fail", None)
    accept({"columns": [{"column": "b", "required": False}]})
