"""Figures of a column of any length, gathered batch by batch in bounded memory."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from llm_platform.specs.resources import HistogramBin, LengthStats

BINS = 20
HASHES_IN_MEMORY = 500_000
"""4 MB, and three times that for the moment in which a run is sorted."""
PARTS = 256


class Lengths:
    """How many texts have which length, and where the first of the shortest and the first of the longest are.

    Bounded, since texts of n different lengths have n²/2 characters together.
    """

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.shortest = self.longest = 0
        """Rows, from 0."""

    def add(self, lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """The lengths of the texts of these rows, in order; rows without a text are not among them."""
        if not len(lengths):
            return
        least, most = int(lengths.argmin()), int(lengths.argmax())
        if not self.counts or lengths[least] < min(self.counts):
            self.shortest = int(rows[least])
        if not self.counts or lengths[most] > max(self.counts):
            self.longest = int(rows[most])
        values, counts = np.unique(lengths, return_counts=True)
        self.counts.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def mean(self) -> float:
        """0 if there are none."""
        return sum(length * count for length, count in self.counts.items()) / max(1, self.counts.total())


def stats(counts: Mapping[int, int]) -> LengthStats:
    """Of at least one length."""
    mean = sum(length * count for length, count in counts.items()) / sum(counts.values())
    return LengthStats(avg_length=round(mean, 2), min_length=min(counts), max_length=max(counts))


def histogram(counts: Mapping[int, int]) -> list[HistogramBin]:
    """At most BINS bins of one width, from the least length to the greatest."""
    if not counts:
        return []
    low, high = min(counts), max(counts)
    width = -(-(high - low + 1) // BINS)
    bins: Counter[int] = Counter()
    for length, count in counts.items():
        bins[(length - low) // width] += count
    places = range(-(-(high - low + 1) // width))
    return [HistogramBin(low=low + place * width, high=low + (place + 1) * width - 1, count=bins[place]) for place in places]


class Distinct:
    """Counts different values (64-bit hashes), exactly; of more than `in_memory` of them, sorted runs go to a file in `folder`."""

    def __init__(self, folder: Path, in_memory: int = HASHES_IN_MEMORY) -> None:
        self._folder = folder
        self._in_memory = in_memory
        self._waiting: list[NDArray[np.uint64]] = []
        self._count = 0
        self._file: IO[bytes] | None = None
        self._runs: list[NDArray[np.int64]] = []

    def add(self, hashes: NDArray[np.uint64]) -> None:
        self._waiting.append(hashes)
        self._count += len(hashes)
        if self._count >= self._in_memory:
            self._spill()

    def count(self) -> int:
        """How many different values there were."""
        if self._file is None:
            return _different(self._waiting)
        self._spill()
        different = 0
        for part in range(PARTS):
            pieces: list[NDArray[np.uint64]] = []
            for places in self._runs:
                self._file.seek(int(places[part]) * 8)
                pieces.append(np.frombuffer(self._file.read(int(places[part + 1] - places[part]) * 8), np.uint64))
            different += _different(pieces)
        return different

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        """Writes what waits as a sorted run, of which it is known where each of PARTS ranges of values begins."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        run = np.concatenate(self._waiting) if self._waiting else np.empty(0, np.uint64)
        self._waiting, self._count = [], 0
        run.sort()
        bounds = np.arange(PARTS, dtype=np.uint64) << np.uint64(64 - PARTS.bit_length() + 1)
        before = int(self._runs[-1][-1]) if self._runs else 0
        self._runs.append(before + np.append(np.searchsorted(run, bounds), len(run)))
        self._file.seek(0, 2)
        self._file.write(run.data)


def _different(pieces: list[NDArray[np.uint64]]) -> int:
    if not pieces:
        return 0
    sorted_values = np.concatenate(pieces)
    sorted_values.sort()  # in place; numpy's `unique` holds three copies
    return int(np.count_nonzero(sorted_values[1:] != sorted_values[:-1])) + min(1, len(sorted_values))
