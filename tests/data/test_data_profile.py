"""Profiles and previews."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llm_platform.data.profile import histogram_png, preview, profile
from llm_platform.errors import DatasetError

Table = Callable[..., Path]


def test_figures_of_the_longest_text_column(table: Table) -> None:
    found = profile(table({"id": [1, 2, 3, 3], "short": ["a", "", " ", " "], "long": ["äöü", None, "abcdef", "abcdef"]}))
    assert found.analysis.model_dump() == {
        "rows": 4,
        "columns": ["id", "short", "long"],
        "text_column": "long",
        "stats": {"avg_length": 5.0, "min_length": 3, "max_length": 6},
    }
    assert found.nulls == {"id": 0, "short": 3, "long": 1}
    assert found.duplicates == 1
    assert found.shortest == {"id": 1, "short": "a", "long": "äöü"}
    assert found.longest == {"id": 3, "short": " ", "long": "abcdef"}
    assert [(bin.low, bin.high, bin.count) for bin in found.histogram] == [(3, 3, 1), (4, 4, 0), (5, 5, 0), (6, 6, 2)]
    json.dumps(found.model_dump(mode="json"))


def test_histogram_covers_every_length_once(table: Table, qa_rows: list[dict[str, str]]) -> None:
    found = profile(table(qa_rows))
    assert found.analysis.text_column in ("question", "answer")
    assert found.analysis.stats is not None
    assert sum(bin.count for bin in found.histogram) == len(qa_rows)
    assert len(found.histogram) <= 20
    assert found.histogram[0].low == found.analysis.stats.min_length
    assert found.histogram[-1].low <= found.analysis.stats.max_length <= found.histogram[-1].high
    assert all(one.high + 1 == two.low for one, two in zip(found.histogram, found.histogram[1:], strict=False))


def test_without_a_text_column(table: Table) -> None:
    found = profile(table({"id": [1, 2], "none": [None, None], "list": [[1], [2]]}))
    assert (found.analysis.text_column, found.analysis.stats, found.histogram, found.shortest) == (None, None, [], None)
    assert histogram_png(found).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["*", "^.*$", "^a", "c0", "a.b", "", "naïve 文", "len"])
def test_column_names_are_never_patterns(table: Table, name: str) -> None:
    found = profile(table({"other": ["x", "y"], name: ["abc", "abcd"]}))
    assert found.analysis.text_column == name
    assert found.nulls == {"other": 0, name: 0}


def test_examples_are_cut(table: Table) -> None:
    found = profile(table({"a": ["x" * 10_000]}))
    assert found.longest is not None
    assert len(found.longest["a"]) == 501


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        profile(tmp_path / "nothing.parquet")
    assert str(tmp_path) not in caught.value.message


def test_preview_is_json(table: Table) -> None:
    row: dict[str, Any] = {
        "text": "=cmd|' /C calc'!A0",
        "float": float("nan"),
        "int": 2**60,
        "bool": True,
        "date": date(2024, 1, 31),
        "time": datetime(2024, 1, 31, 12, 30),
        "span": timedelta(minutes=1),
        "decimal": Decimal("1.10"),
        "bytes": b"\xff",
        "list": [1.0, float("inf")],
        "struct": {"when": date(2024, 1, 1)},
    }
    path = table([row] * 3)
    assert (
        json.loads(json.dumps(preview(path, 2), allow_nan=False))
        == [
            {
                "text": "=cmd|' /C calc'!A0",
                "float": None,
                "int": 2**60,
                "bool": True,
                "date": "2024-01-31",
                "time": "2024-01-31T12:30:00",
                "span": 60.0,
                "decimal": "1.10",
                "bytes": "/w==",
                "list": [1.0, None],
                "struct": {"when": "2024-01-01"},
            }
        ]
        * 2
    )
    assert len(preview(path, 100)) == 3


def test_charts_survive_any_name(table: Table) -> None:
    image = histogram_png(profile(table({"文$\\frac_^{": ["x", "yy"]})))
    assert image.startswith(b"\x89PNG")
    assert len(image) < 60_000
