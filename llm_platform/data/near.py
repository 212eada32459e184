"""Near-duplicates by MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, chapter 3).

A text is the set of its word trigrams. Each text gets a MinHash signature (by rensa) of PERMUTATIONS values, of which eight
bits are kept; the share of equal values estimates the Jaccard similarity. Texts that agree in one of the signature's bands are
candidates; those whose estimate reaches the threshold are near-duplicates, and so is whatever they are near to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

PERMUTATIONS = 128
WORDS = 3
SEED = 1
RECALL = 0.95
"""Least chance that a pair of just the threshold's similarity becomes a candidate."""
CHUNK = 65_536

_ODD = np.random.default_rng(SEED).integers(2**63, size=PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


@dataclass(frozen=True)
class Bands:
    """`count` bands of `width` values each, for pairs of at least the similarity `threshold`."""

    count: int
    width: int
    threshold: float

    @classmethod
    def at(cls, threshold: float) -> Bands:
        """The widest bands, which give the fewest false candidates, that still find RECALL of the pairs at the threshold."""
        width = next(
            width for width in range(PERMUTATIONS, 0, -1) if width == 1 or 1 - (1 - threshold**width) ** (PERMUTATIONS // width) >= RECALL
        )
        return cls(PERMUTATIONS // width, width, threshold)


def sketch(texts: pl.Series, bands: Bands) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Signatures [N, PERMUTATIONS] and band hashes [N, bands.count] of normalised texts."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

    hashes, offsets = shingles(texts, WORDS)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, SEED)
    values = np.array(matrix.to_rows(), dtype=np.uint64).reshape(-1, PERMUTATIONS)
    used = bands.count * bands.width
    columns = (values[:, :used] * _ODD[:used]).reshape(len(values), bands.count, bands.width).sum(axis=2, dtype=np.uint64)
    return values.astype(np.uint8), (columns >> np.uint64(32)).astype(np.uint32)


def shingles(texts: pl.Series, size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Hashes of the runs of `size` words of each text, and where each text's start, [N + 1]. A text of fewer words is one run."""
    words = texts.str.split(" ")
    # Polars' hash with a seed is the same in all processes of one version; sketches are compared within one run only.
    counts = words.list.len().to_numpy().astype(np.int64)
    flat = words.explode(empty_as_null=True).hash(SEED).to_numpy()
    padded = np.concatenate([flat, np.zeros(size - 1, dtype=np.uint64)])
    mixed = np.zeros(len(flat), dtype=np.uint64)
    for place in range(size):
        mixed = (mixed ^ padded[place : place + len(flat)]) * _ODD[place]
        mixed ^= mixed >> np.uint64(32)
    starts = np.cumsum(counts) - counts
    kept = np.maximum(counts - size + 1, 1)
    place_in_text = np.arange(len(flat)) - np.repeat(starts, counts)
    short = counts < size
    mixed[starts[short]] = texts.hash(SEED).to_numpy()[short]
    return mixed[place_in_text < np.repeat(kept, counts)], np.concatenate([[0], np.cumsum(kept)]).astype(np.uint64)


def clusters(signatures: NDArray[np.uint8], bands: NDArray[np.uint32], places: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """For each of the texts at `places` the place of the first of them that it is near to, directly or through others.

    Both arrays may be files mapped into memory: one band's column is read at a time.
    """
    first = np.arange(len(places))
    for band in range(bands.shape[1]):
        column = bands[:, band][places]
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        follows = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
        heads = order[np.searchsorted(ordered, ordered[follows])]
        # Its bucket's first, and the one before it: a false member in front does not hide the true ones behind.
        one = np.concatenate([order[follows], order[follows]])
        other = np.concatenate([heads, order[follows - 1]])
        apart = first[one] != first[other]
        one, other = one[apart], other[apart]
        near = _are_near(signatures, places[one], places[other], threshold)
        if near.any():
            first = components(np.concatenate([first, one[near]]), np.concatenate([np.arange(len(first)), other[near]]), len(first))
    return places[first]


def _are_near(signatures: NDArray[np.uint8], one: NDArray[np.int64], other: NDArray[np.int64], threshold: float) -> NDArray[np.bool_]:
    """Which of the pairs have an estimated similarity that reaches the threshold, [N]."""
    near = np.empty(len(one), dtype=np.bool_)
    for start in range(0, len(one), CHUNK):
        part = slice(start, start + CHUNK)
        near[part] = similarity(signatures[one[part]], signatures[other[part]]) >= threshold
    return near


def similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of N pairs, [N]: the share of equal values, less what eight bits make equal by chance."""
    equal = (one == other).mean(axis=1)
    return (equal - 1 / 256) / (1 - 1 / 256)


def components(one: NDArray[Any], other: NDArray[Any], count: int) -> NDArray[np.int64]:
    """For each of `count` things the first that the pairs connect it with, itself included."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(count, count))
    number, labels = connected_components(graph, directed=False)
    first = np.empty(number, dtype=np.int64)
    first[labels[::-1]] = np.arange(count)[::-1]  # of several writes to one place, the last stays: the first thing
    return first[labels]
