"""Cells as they are written, and digests."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llm_platform.data.digest import digest
from llm_platform.data.layout import Columns, normalize


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([1, -2], ["1", "-2"]),
        ([1.0, 2.5, -0.125, float("nan")], ["1", "2.5", "-0.125", "NaN"]),
        ([True, False], ["true", "false"]),
        ([["ü", None], []], ['["ü", null]', "[]"]),
        ([{"a": 1}, None], ['{"a": 1}', None]),
        ([date(2024, 1, 31)], ["2024-01-31"]),
    ],
    ids=str,
)
def test_values_as_they_are_written(values: list[Any], written: list[str | None]) -> None:
    frame = pl.DataFrame({"q": ["x"] * len(values), "a": values})
    assert normalize(frame, Columns("unknown", instruction="q", output="a"))["output"].to_list() == written


def test_one_column_may_fill_two_slots_and_names_are_no_patterns() -> None:
    frame = pl.DataFrame({"^x.*$": ["one"], "*": ["two"]})
    found = normalize(frame, Columns("unknown", instruction="^x.*$", input="^x.*$", output="*"))
    assert found.rows() == [(None, "one", "one", "two")]


def test_digest(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x")
    two.write_bytes(b"x")
    assert digest("a", {"b": 1, "c": [2]}, one) == digest("a", {"c": [2], "b": 1}, two)
    parts: list[tuple[Any, ...]] = [("ab",), ("a", "b"), (b"ab",), ("b", "a"), ({"a": 1},), ('{"a":1}',), (one,), ("x",), ()]
    assert len({digest(*part) for part in parts}) == len(parts)
    assert len(digest()) == 64
