"""Cleaning, deduplication, rendering, splitting, digests."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llm_platform.data.clean import clean
from llm_platform.data.dedup import dedup
from llm_platform.data.digest import digest
from llm_platform.data.render import render_prompts
from llm_platform.data.split import assign_splits
from llm_platform.errors import DatasetError
from llm_platform.specs import SplitConfig, TemplateMapping

BEGIN = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request."


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("e\u0301", "é", "unicode"),
        ("a\x00b\x07\x1b\x7f\x85c\ufeff", "ab\nc", "control_characters"),
        ("a\r\nb\rc", "a\nb\nc", "line_ends"),
        ("a\n\n\n\n\nb", "a\n\nb", "blank_lines"),
        ("a\n \n\t\n  b", "a\n\n  b", "blank_lines"),
        (" \n a \n", "a", "whitespace"),
        ("def f():\n    return 1\n\nf()", "def f():\n    return 1\n\nf()", None),
        ("a\tb  c", "a\tb  c", None),
        ("日本\u200d語 👩\u200d🚀", "日本\u200d語 👩\u200d🚀", None),
    ],
)
def test_cleaning_rules(before: str, after: str, rule: str | None) -> None:
    frame, counts = clean(pl.DataFrame({"a": [before, "fine"]}), ["a"])
    assert frame["a"].to_list() == [after, "fine"]
    assert (counts[rule] == 1) if rule else not any(counts.values())


def test_cleaning_drops_rows_without_what_is_needed() -> None:
    frame = pl.DataFrame({"a": ["x", None, " ", "y"], "b": [None, "1", "2", "\x00"]})
    kept, counts = clean(frame, ["a"], ["b"])
    assert kept["a"].to_list() == ["x", "y"]
    assert kept["b"].to_list() == [None, ""]
    assert counts["empty_rows"] == 2
    again, counts = clean(kept, ["a"], ["b"])
    assert again.equals(kept)
    assert not any(counts.values())


def test_dedup_says_which_row_stands_for_which() -> None:
    frame = pl.DataFrame({"row": [3, 5, 7, 9, 11], "a": ["Hello  World", "hello world\n", "x", None, ""], "b": ["1", "1", "1", "2", "2"]})
    kept, dropped = dedup(frame, ["a", "b"])
    assert kept["row"].to_list() == [3, 7, 9]
    assert dropped.rows() == [(5, 3), (11, 9)]
    assert dedup(frame, ["b"])[0]["row"].to_list() == [3, 9]


def test_alpaca_wording() -> None:
    frame = pl.DataFrame({"q": ["Add.", "Say hi {{ 7*7 }} {% raw %}"], "ctx": ["1 and 2", None], "a": ["3", "hi"]})
    rendered = render_prompts(frame, TemplateMapping(instruction="q", input="ctx", output="a"))
    assert rendered.columns == ["prompt", "completion"]
    assert rendered.rows() == [
        (
            f"{BEGIN}, paired with an input that provides further context. {REQUEST}\n\n"
            "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n",
            "3",
        ),
        (f"{BEGIN}. {REQUEST}\n\n### Instruction:\nSay hi {{{{ 7*7 }}}} {{% raw %}}\n\n### Response:\n", "hi"),
    ]
    assert "### Input" not in render_prompts(frame, TemplateMapping(instruction="q", output="a"))["prompt"][0]


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([1, -2], ["1", "-2"]),
        ([1.0, 2.5, -0.125, float("nan")], ["1", "2.5", "-0.125", "NaN"]),
        ([True, False], ["true", "false"]),
        ([["ü", None], []], ['["ü", null]', "[]"]),
        ([{"a": 1}, None], ['{"a": 1}', ""]),
        ([date(2024, 1, 31)], ["2024-01-31"]),
    ],
    ids=str,
)
def test_values_as_they_are_written(values: list[Any], written: list[str]) -> None:
    frame = pl.DataFrame({"q": ["x"] * len(values), "a": values})
    assert render_prompts(frame, TemplateMapping(instruction="q", output="a"))["completion"].to_list() == written


def test_one_column_may_fill_two_slots_and_names_are_no_patterns() -> None:
    frame = pl.DataFrame({"^x.*$": ["one"], "*": ["two"]})
    assert render_prompts(frame, TemplateMapping(instruction="^x.*$", input="^x.*$", output="*"))["completion"].to_list() == ["two"]


EVEN = SplitConfig(train=0.6, validation=0.2, test=0.2)


def test_split_has_the_shares_and_is_deterministic() -> None:
    prompts = [f"prompt {number}" for number in range(1_000)]
    names = assign_splits(prompts, EVEN, 42)
    assert Counter(names) == {"train": 600, "validation": 200, "test": 200}
    assert names.equals(assign_splits(prompts, EVEN, 42))
    assert not names.equals(assign_splits(prompts, EVEN, 43))
    backwards = assign_splits(prompts[::-1], EVEN, 42)
    assert backwards.to_list() == names.to_list()[::-1]


@pytest.mark.parametrize("seed", range(5))
def test_split_never_leaks(seed: int) -> None:
    prompts = [f"Prompt{' ' * (number % 3 + 1)}{number % 40}".upper() if number % 2 else f"prompt {number % 40}" for number in range(500)]
    sides: dict[str, set[str]] = {}
    for prompt, side in zip(prompts, assign_splits(prompts, EVEN, seed), strict=True):
        sides.setdefault(" ".join(prompt.lower().split()), set()).add(side)
    assert all(len(side) == 1 for side in sides.values())
    assert set().union(*sides.values()) == {"train", "validation", "test"}


@pytest.mark.parametrize("sizes", [(1, 1, 1), (100, 1, 1), (1, 100, 100), (50, 50, 50), (1, 1, 1, 1)])
def test_every_split_gets_a_row_where_that_is_possible(sizes: tuple[int, ...]) -> None:
    prompts = list(itertools.chain.from_iterable([f"p{number}"] * size for number, size in enumerate(sizes)))
    for seed in range(20):
        assert set(assign_splits(prompts, SplitConfig(), seed)) == {"train", "validation", "test"}


def test_too_few_prompts_to_split() -> None:
    with pytest.raises(DatasetError, match="at least 3 rows with different prompts; there are 2") as caught:
        assign_splits(["a", "A ", "b"] * 10, SplitConfig(), 1)
    assert caught.value.metadata == {"rows": 30, "different_prompts": 2, "needed": 3}
    assert set(assign_splits(["a", "b"], SplitConfig(train=0.9, validation=0.0, test=0.1), 1)) == {"train", "test"}
    assert set(assign_splits(["a"], SplitConfig(train=1.0, validation=0.0, test=0.0), 1)) == {"train"}


def test_digest(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x")
    two.write_bytes(b"x")
    assert digest("a", {"b": 1, "c": [2]}, one) == digest("a", {"c": [2], "b": 1}, two)
    parts: list[tuple[Any, ...]] = [("ab",), ("a", "b"), (b"ab",), ("b", "a"), ({"a": 1},), ('{"a":1}',), (one,), ("x",), ()]
    assert len({digest(*part) for part in parts}) == len(parts)
    assert len(digest()) == 64
