"""Figures that are gathered batch by batch are those of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_platform.data.figures import BINS, Distinct, Lengths, histogram, stats
from llm_platform.data.language import languages

BATCHES = st.lists(st.lists(st.integers(0, 300), max_size=20), min_size=1, max_size=8)


@given(BATCHES)
def test_lengths(batches: list[list[int]]) -> None:
    lengths, before = Lengths(), 0
    for batch in batches:
        lengths.add(np.array(batch, np.int64), before + np.arange(len(batch)))
        before += len(batch)
    whole = [length for batch in batches for length in batch]
    assert sorted(lengths.counts.elements()) == sorted(whole)
    bins = histogram(lengths.counts)
    assert sum(bin.count for bin in bins) == len(whole) and len(bins) <= BINS
    assert all(bin.count == sum(bin.low <= length <= bin.high for length in whole) for bin in bins)
    if whole:
        assert (lengths.shortest, lengths.longest) == (whole.index(min(whole)), whole.index(max(whole)))
        found = stats(lengths.counts)
        assert (found.min_length, found.max_length) == (min(whole), max(whole))
        assert found.avg_length == pytest.approx(sum(whole) / len(whole), abs=0.01)
        assert lengths.mean() == pytest.approx(sum(whole) / len(whole))


@pytest.mark.parametrize("in_memory", [1, 100, 10_000])
def test_different_values_are_counted_in_memory_and_on_disk(tmp_path: Path, in_memory: int) -> None:
    dice = np.random.default_rng(3)
    values = dice.choice(dice.integers(0, 2**64, 500, np.uint64, endpoint=False), 2_000)
    values[:2] = 0, 2**64 - 1
    distinct = Distinct(tmp_path, in_memory)
    for batch in np.array_split(values, 40):
        distinct.add(batch)
    assert distinct.count() == len(set(values.tolist()))
    distinct.close()
    assert not list(tmp_path.iterdir())


def test_languages() -> None:
    english = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
    german = "Wie viele Äpfel hat Anna, wenn sie drei kauft und zwei davon ihrer Schwester schenkt?"
    assert languages([english] * 3 + [german]) == {"en": 0.75, "de": 0.25}
    assert languages(["4", "2 + 2 = 4"]) == {"und": 1.0}
    assert languages([]) == {}
