"""Which rows repeat earlier ones, also where the hashes are compared in several buckets."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llm_platform.data import repeats
from llm_platform.data.repeats import Repeats, find_repeats


def found(values: list[Any], folder: Path) -> Repeats:
    return dict(find_repeats(pl.LazyFrame({"v": values}), {"v": pl.col("v")}, len(values), folder))["v"]


def expected(values: list[Any]) -> list[int | None]:
    """For each row the first row of its value, None for that row itself."""
    first: dict[Any, int] = {}
    return [None if first.setdefault(value, row) == row else first[value] for row, value in enumerate(values)]


@pytest.mark.parametrize("bucket", [7, 100, repeats.BUCKET_ROWS])
def test_repeats_and_their_firsts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: int) -> None:
    monkeypatch.setattr(repeats, "BUCKET_ROWS", bucket)
    draw = random.Random(1)
    values = [draw.choice([None, "", " ", *(f"text {number}" for number in range(200))]) for _ in range(1_000)]
    result, want = found(values, tmp_path), expected(values)
    assert result.mask.to_list() == [row is not None for row in want]
    assert result.first(0, 1_000).to_list() == want
    assert result.first(990, 10).to_list() == want[990:]
    assert list(tmp_path.iterdir()) == []


def test_equal_halves_of_a_hash_are_no_repeat() -> None:
    hashes = pl.LazyFrame({"a": [1, 1, 1, 2], "b": [1, 2, 1, 1]}, schema={"a": pl.UInt64, "b": pl.UInt64})
    result = repeats._repeats(hashes, 4)
    assert result.mask.to_list() == [False, False, True, False]
    assert result.first(0, 4).to_list() == [None, None, 0, None]


def test_only_so_many_firsts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST_FIRSTS", 3)
    monkeypatch.setattr(repeats, "BUCKET_ROWS", 4)
    result = found([1, 1, 2, 2, 3, 3, 4, 4, 5, 5], tmp_path)
    assert result.mask.sum() == 5
    assert result.firsts["row"].to_list() == [1, 3, 5]
