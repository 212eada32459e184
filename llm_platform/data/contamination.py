"""How much of the test split a model will have seen in training: runs of words in common, and near-duplicates.

Runs of 13 words are what GPT-3's report took for contamination (Brown et al. 2020, appendix C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llm_platform.data.keys import key_texts
from llm_platform.data.near import shingles
from llm_platform.data.texts import Chosen
from llm_platform.specs.base import Resource

WORDS = 13
MOST = 50_000
"""Test rows that are looked at; of more, this many at equal distances, so that memory stays bounded."""
FRAME_PROMPTS, FRAME_SHARE = 3, 0.01
"""A run that more different test prompts than this number, or than this share of them, have in common is part of their wording."""
EXAMPLES = 10
SHOWN = 300


class Overlap(Resource):
    """A test row whose prompt has a run of words in common with that of a training row. Rows count from 1."""

    row: int
    train_row: int
    prompt: str


class Contamination(Resource):
    """`overlapping` of the `checked` test rows have a run of 13 words of their prompt (or the whole of a shorter one) in a training
    prompt; `near_duplicates` are near to a training row as a whole."""

    checked: int
    overlapping: int
    near_duplicates: int
    examples: list[Overlap]


def contamination(
    test: Sequence[Chosen], train: Sequence[Chosen], test_rows: int, near_duplicates: int, on_piece: Callable[[], Any]
) -> Contamination:
    """Reads both splits' texts once. Memory is of the order of the test split's words."""
    step = max(1, -(-test_rows // MOST))
    texts = pl.concat(list(_texts(test, step)) or [pl.DataFrame(schema={"row": pl.Int64, "prompt": pl.String})])
    runs = _Runs.of(texts.unique("prompt", maintain_order=True))
    for frame in _texts(train, 1, on_piece):
        found, offsets = shingles(frame["prompt"], WORDS)
        runs.mark(found, np.repeat(frame["row"].to_numpy(), np.diff(offsets.astype(np.int64))))
    seen = texts.join(runs.seen(), on="prompt", how="inner", maintain_order="left")
    examples = [
        Overlap(row=row + 1, train_row=train_row + 1, prompt=prompt[:SHOWN])
        for row, prompt, train_row in seen.select("row", "prompt", "train_row").head(EXAMPLES).iter_rows()
    ]
    return Contamination(checked=texts.height, overlapping=seen.height, near_duplicates=near_duplicates, examples=examples)


@dataclass
class _Runs:
    """The runs of different prompts, by hash in ascending order: whose they are, and in which training row each was seen."""

    prompts: pl.Series
    hashes: NDArray[np.uint64]
    owners: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, texts: pl.DataFrame) -> _Runs:
        hashes, offsets = shingles(texts["prompt"], WORDS)
        owners = np.repeat(np.arange(texts.height), np.diff(offsets.astype(np.int64)))
        _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        # What so many prompts share is the frame around the question, not the question.
        own = counts[inverse] <= max(FRAME_PROMPTS, FRAME_SHARE * texts.height)
        order = np.argsort(hashes[own], kind="stable")
        return cls(texts["prompt"], hashes[own][order], owners[own][order], np.full(int(own.sum()), -1, dtype=np.int64))

    def mark(self, found: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        """Notes in which of the training `rows` a run was `found` first."""
        if not len(self.hashes):
            return
        found, first = np.unique(found, return_index=True)
        starts = np.searchsorted(self.hashes, found)
        hit = np.flatnonzero(self.hashes[np.minimum(starts, len(self.hashes) - 1)] == found)
        ends = np.searchsorted(self.hashes, found[hit], side="right")
        for start, end, row in zip(starts[hit].tolist(), ends.tolist(), rows[first[hit]].tolist(), strict=True):
            if self.rows[start] < 0:
                self.rows[start:end] = row

    def seen(self) -> pl.DataFrame:
        """The prompts with a run that was seen, and in which training row."""
        hit = self.rows >= 0
        owners, first = np.unique(self.owners[hit], return_index=True)
        return pl.DataFrame({"prompt": self.prompts.gather(owners), "train_row": self.rows[hit][first]})


def _texts(chosen: Sequence[Chosen], step: int, on_piece: Callable[[], Any] | None = None) -> Iterator[pl.DataFrame]:
    for piece in chosen:
        if on_piece:
            on_piece()
        for frame in piece.slices():
            yield key_texts(frame.gather_every(step)).select("row", "prompt")
