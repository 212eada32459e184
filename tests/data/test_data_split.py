"""Splits: shares, reproducibility, and that nothing leaks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_platform.data.keys import Keys, keys_of
from llm_platform.data.split import LEFT_OUT, SPLITS, TEST, TRAIN, VALIDATION, assign_splits
from llm_platform.errors import DatasetError
from llm_platform.specs import PreprocessingConfig, SplitConfig

EVEN: dict[str, Any] = {"train": 0.6, "validation": 0.2, "test": 0.2}


def keys(prompts: list[str], split: SplitConfig, **columns: list[str | None]) -> Keys:
    config = PreprocessingConfig(base_model="base", split=split)
    frame = pl.DataFrame(
        {"row": range(len(prompts)), "instruction": prompts, "input": "", "output": [f"a{n}" for n in range(len(prompts))]}
    )
    return keys_of(frame.with_columns(**{name: pl.Series(values, dtype=pl.String) for name, values in columns.items()}), config, None)


def assign(prompts: list[str], seed: int = 42, given_: list[int] | None = None, near: list[int] | None = None, **fields: Any) -> list[int]:
    columns = {name: fields.pop(name) for name in ("group", "stratum") if name in fields}
    split = SplitConfig(**{**EVEN, **fields})
    given_ = [-1] * len(prompts) if given_ is None else given_
    places = np.arange(len(prompts))
    found = assign_splits(
        keys(prompts, split, **columns),
        places,
        None if near is None else np.array(near),
        np.array(given_, dtype=np.int8),
        split,
        seed,
    )
    return found.tolist()


def test_shares_and_determinism() -> None:
    prompts = [f"prompt {number}" for number in range(1_000)]
    found = assign(prompts)
    assert Counter(found) == {TRAIN: 600, VALIDATION: 200, TEST: 200}
    assert found == assign(prompts)
    assert found != assign(prompts, seed=43)


@given(st.permutations(range(30)), st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_does_not_matter(order: list[int], seed: int) -> None:
    prompts = [f"prompt {number}" for number in range(30)]
    split = SplitConfig(**EVEN)
    plain = keys(prompts, split)
    mixed = Keys(**{name: getattr(plain, name)[order] for name in plain.__dataclass_fields__})
    no_given = np.full(30, -1, dtype=np.int8)
    one, other = (assign_splits(k, np.arange(30), None, no_given, split, seed) for k in (plain, mixed))
    assert one[order].tolist() == other.tolist()


@given(st.lists(st.integers(0, 12), min_size=3, max_size=80), st.integers(0, 99), st.data())
def test_splits_never_share_a_prompt_a_group_or_a_near_duplicate(numbers: list[int], seed: int, data: st.DataObject) -> None:
    prompts = [
        f"Prompt{' ' * (place % 3 + 1)}{number}".upper() if place % 2 else f"prompt {number}" for place, number in enumerate(numbers)
    ]
    groups = data.draw(st.lists(st.sampled_from([None, "x", "y", "z"]), min_size=len(prompts), max_size=len(prompts)))
    near = [data.draw(st.integers(max(0, place - 1), place)) if place % 5 == 4 else place for place in range(len(prompts))]
    near = [near[first] for first in near]
    try:
        found = assign(prompts, seed, near=near, group=groups, group_by="group")
    except DatasetError as error:
        assert error.metadata["different_prompts"] < 3
        return
    for bond in (numbers, groups, near):
        sides: dict[Any, set[int]] = {}
        for value, side in zip(bond, found, strict=True):
            sides.setdefault(value, set()).add(side)
        assert all(len(side) == 1 for value, side in sides.items() if value is not None)
    assert set(found) == {TRAIN, VALIDATION, TEST}


@pytest.mark.parametrize("sizes", [(1, 1, 1), (100, 1, 1), (1, 100, 100), (50, 50, 50), (1, 1, 1, 1)])
def test_every_split_gets_a_row_where_that_is_possible(sizes: tuple[int, ...]) -> None:
    prompts = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    for seed in range(20):
        assert set(assign(prompts, seed)) == {TRAIN, VALIDATION, TEST}


def test_strata_have_the_same_shares() -> None:
    prompts = [f"prompt {number}" for number in range(1_000)]
    labels: list[str | None] = ["rare" if number % 20 == 0 else "common" for number in range(1_000)]
    found = assign(prompts, stratum=labels, stratify_by="label")
    counts = Counter(zip(labels, found, strict=True))
    assert [counts["rare", split] for split in range(3)] == [30, 10, 10]
    assert [counts["common", split] for split in range(3)] == [570, 190, 190]


def test_given_splits_win_and_what_would_leak_is_left_out() -> None:
    prompts = ["held out", "also held out", "Held  OUT", *(f"prompt {n}" for n in range(20)), "near"]
    given_ = [TEST, VALIDATION, *[-1] * 22]
    near = [*range(23), 1]
    found = assign(prompts, given_=given_, near=near, test_inputs=["t"], validation_inputs=["v"])
    assert found == [TEST, VALIDATION, LEFT_OUT, *[TRAIN] * 20, LEFT_OUT]
    found = assign(prompts, given_=[TEST, *[-1] * 23], test_inputs=["t"], near_duplicates="ignore")
    assert found[0] == TEST
    assert found[2] == LEFT_OUT
    assert Counter(found) == {TEST: 1, LEFT_OUT: 1, TRAIN: 16, VALIDATION: 6}  # 0.2 of 0.8, of 22 rows


def test_near_duplicates_may_be_ignored() -> None:
    prompts = [f"prompt {number}" for number in range(30)]
    one_family = [0] * 30
    with pytest.raises(DatasetError, match=r"not near-duplicates \(near_duplicates\); there are 1"):
        assign(prompts, near=one_family)
    assert set(assign(prompts, near=one_family, near_duplicates="ignore")) == {TRAIN, VALIDATION, TEST}


def test_too_few_prompts_to_split() -> None:
    with pytest.raises(DatasetError, match=r"at least 3 rows with different prompts .*; there are 2") as caught:
        assign(["a", "A ", "b"] * 10)
    assert caught.value.metadata == {"rows": 30, "different_prompts": 2, "needed": 3}
    assert set(assign(["a", "b"], train=0.9, validation=0.0, test=0.1)) == {TRAIN, TEST}
    assert set(assign(["a"], train=1.0, validation=0.0, test=0.0)) == {TRAIN}


def test_assignment_is_the_same_on_every_machine() -> None:
    """Digests and order are part of what users rely on: a change here changes every split there is."""
    assert SPLITS == ("train", "validation", "test")
    assert assign([f"prompt {number}" for number in range(20)]) == [2, 1, 0, 0, 1, 0, 0, 1, 2, 0, 0, 1, 0, 0, 0, 0, 0, 2, 2, 0]
