"""Profiles and previews."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llm_platform.data.profile import Profiler, histogram_png, preview, profile, token_lengths
from llm_platform.data.read import to_parquet
from llm_platform.errors import DatasetError, InvalidConfig

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


def test_layout_and_languages(table: Table) -> None:
    rows = [{"prompt": f"Wie viel ist {number} und eins?", "completion": "Das weiß ich leider nicht mehr."} for number in range(300)]
    found = profile(table(rows))
    assert found.layout.model_dump() == {"name": "prompt_completion", "columns": {"instruction": "prompt", "output": "completion"}}
    assert next(iter(found.languages)) == "de" and sum(found.languages.values()) == pytest.approx(1, abs=0.01)
    assert found.turns is None


@pytest.mark.parametrize("size", [1, 100_000])
def test_the_profile_is_the_same_while_a_table_is_written(tmp_path: Path, size: int) -> None:
    """Also where the types turn out wider in the middle of the file, and it is read again."""
    path, out = tmp_path / "upload", tmp_path / "table.parquet"
    lines = [json.dumps({"n": number, "text": f"{number % 9} " * (number % 30)}) for number in range(size)]
    path.write_text("\n".join([*lines, '{"n": "x", "text": null}', '{"n": "x", "text": null}']))
    with Profiler(tmp_path) as profiler:
        to_parquet(path, "jsonl", out, "a.jsonl", profiler=profiler)
        found = profiler.profile(out)
    assert found == profile(out)
    assert (found.analysis.rows, found.duplicates) == (size + 2, 1)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["table.parquet", "upload"]


def test_lengths_in_tokens(table: Table, tokenizer_folder: Path) -> None:
    path = table({"text": ["a", "a b c", None, "a b c d e"], "n": [1, 2, 3, 4]})
    found = token_lengths(path, profile(path), tokenizer_folder, "tiny")
    assert found is not None and (found.tokenizer, found.rows) == ("tiny", 3)
    assert found.stats.min_length < found.stats.avg_length < found.stats.max_length
    assert sum(bin.count for bin in found.histogram) == 3
    numbers = table({"n": [1, 2]}, "numbers")
    assert token_lengths(numbers, profile(numbers), tokenizer_folder, "tiny") is None


def test_a_folder_without_a_tokenizer(table: Table, tmp_path: Path) -> None:
    path = table({"text": ["a"]})
    with pytest.raises(InvalidConfig, match="tokenizer of 'tiny'") as caught:
        token_lengths(path, profile(path), tmp_path, "tiny")
    assert str(tmp_path) not in caught.value.message


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
