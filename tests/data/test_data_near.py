"""Near-duplicates: what is found, what is not, and what stands for what."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_platform.data.dedup import Kept, deduplicate
from llm_platform.data.keys import keys_of, normalized
from llm_platform.data.near import PERMUTATIONS, WORDS, Bands, clusters, components, shingles, similarity, sketch
from llm_platform.specs import PreprocessingConfig

THRESHOLD = 0.8
WORDS_OF = ["".join(random.Random(n).choices("abcdefghijklmnop", k=6)) for n in range(2_000)]


def text(seed: int, length: int = 80) -> list[str]:
    return random.Random(seed).choices(WORDS_OF, k=length)


def edited(words: list[str], edits: int, seed: int) -> list[str]:
    pick = random.Random(seed)
    found = list(words)
    for place in pick.sample(range(len(found)), edits):
        found[place] = pick.choice(WORDS_OF)
    return found


def jaccard(one: list[str], other: list[str]) -> float:
    sets = [{tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)} for words in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def kept(texts: list[str], **fields: object) -> Kept:
    config = PreprocessingConfig.model_validate({"base_model": "base", **fields})
    frame = pl.DataFrame({"row": range(len(texts)), "instruction": texts, "input": "", "output": "same"})
    return deduplicate(keys_of(frame, config, Bands.at(config.near_dedup_threshold)), config)


def test_estimate_is_near_the_true_similarity() -> None:
    pairs = [(words := text(n), edited(words, n % 12, n)) for n in range(300)]
    one, other = (pl.Series([" ".join(pair[side]) for pair in pairs]) for side in (0, 1))
    estimates = similarity(sketch(one, Bands.at(THRESHOLD))[0], sketch(other, Bands.at(THRESHOLD))[0])
    true = np.array([jaccard(*pair) for pair in pairs])
    # The estimate's standard deviation is at most 0.5 / sqrt(128) = 0.044; the mean over 300 pairs is much nearer.
    assert abs(estimates - true).max() < 0.2
    assert abs((estimates - true).mean()) < 0.01
    assert (estimates[true == 1] == 1).all()


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_what_is_as_similar_as_the_threshold(threshold: float) -> None:
    bands = Bands.at(threshold)
    assert bands.count * bands.width <= PERMUTATIONS
    assert 1 - (1 - threshold**bands.width) ** bands.count >= 0.95


def test_recall_and_precision_on_planted_near_duplicates() -> None:
    originals = [text(n) for n in range(400)]
    near = [edited(words, 2, n) for n, words in enumerate(originals)]  # similarity about 0.85 to 0.92
    far = [edited(words, 20, n) for n, words in enumerate(originals)]  # well below the threshold
    found = kept([" ".join(words) for words in [*originals, *near, *far]], near_dedup=True)
    true = [jaccard(*pair) for pair in zip(originals, near, strict=True)]
    fell = [found.stands[400 + n] == n for n in range(400) if true[n] >= THRESHOLD + 0.05]
    assert len(fell) > 300
    assert sum(fell) / len(fell) >= 0.95
    assert all(found.stands[800 + n] == 800 + n for n in range(400))
    assert all(found.stands[n] == n for n in range(400))


def test_equal_rows_stand_for_each_other_and_chains_for_the_first() -> None:
    words = text(1, 200)
    chain = [" ".join(words)]
    for step in range(4):  # each a little further from the first
        words = edited(words, 3, step)
        chain.append(" ".join(words))
    texts = ["first of all", chain[0], f"  {chain[0].upper()}\n", *chain[1:], "something else"]
    both = kept(texts, near_dedup=True)
    assert both.stands.tolist() == [0, 1, 1, 1, 1, 1, 1, 7]
    assert both.equal.tolist() == [False, False, True, False, False, False, False, False]
    assert kept(texts).stands.tolist() == [0, 1, 1, 3, 4, 5, 6, 7]
    assert kept(texts, dedup=False).stands.tolist() == list(range(8))
    assert kept(texts, dedup=False, near_dedup=True).stands.tolist() == [0, 1, 2, 1, 1, 1, 1, 7]


def test_short_texts_are_near_only_if_equal() -> None:
    found = kept(["yes", "no", "yes", "", "a b", "a c", "a b"], near_dedup=True)
    assert found.stands.tolist() == [0, 1, 0, 3, 4, 5, 4]


@given(st.lists(st.text("ab ", max_size=8), max_size=12), st.integers(1, 5))
def test_shingles_are_those_of_plain_python(texts: list[str], size: int) -> None:
    hashes, offsets = shingles(pl.Series(texts, dtype=pl.String), size)
    assert len(offsets) == len(texts) + 1
    seen: dict[tuple[str, ...], int] = {}
    for text_, start, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
        words = text_.split(" ")
        runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)] or [("whole", text_)]
        assert int(end - start) == len(runs)
        for run, value in zip(runs, hashes[int(start) : int(end)].tolist(), strict=True):
            assert seen.setdefault(run, value) == value
    assert len(set(seen.values())) == len(seen)


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))))
def test_components_name_the_first_of_each(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = graph
    first = list(range(count))
    for _ in range(count):
        for one, other in pairs:
            first[one] = first[other] = min(first[one], first[other])
    found = components(np.array([one for one, _ in pairs], dtype=int), np.array([other for _, other in pairs], dtype=int), count)
    assert found.tolist() == first


def test_clusters_look_only_at_the_given_places() -> None:
    texts = pl.Series([" ".join(text(n % 3)) for n in range(9)])
    signatures, columns = sketch(texts, Bands.at(THRESHOLD))
    assert clusters(signatures, columns, np.array([1, 3, 4, 6, 8]), THRESHOLD).tolist() == [1, 3, 1, 3, 8]


@given(st.text(max_size=30))
def test_normalized_is_what_python_says(value: str) -> None:
    value = value.encode("utf-8", "ignore").decode()
    (found,) = normalized(pl.Series("a", [value])).to_list()
    assert found.split() == value.lower().split() or not value.isascii()
    assert "  " not in found
    assert found == found.strip(" ")
