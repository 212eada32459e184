"""Which rows are trained together, in which order, and as which tensors.

Rows are grouped by length: each epoch's random order is cut into pools of `POOL` batches, each pool is sorted by length and
cut into batches, and the batches are shuffled. So a batch has little padding, yet its company changes from epoch to epoch
(the idea of Hugging Face's LengthGroupedSampler). The largest batch comes first: if memory is short, that shows at once.

Packed batches have no padding at all, and take their rows in the random order.

The order depends on (seed, epoch) alone, so an optimizer step's number is the whole position to resume from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray

from llm_platform.training.rows import Rows

POOL = 64


def epoch_batches(lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int, *, packed: bool = False) -> list[NDArray[np.int64]]:
    """Row indices of each batch of an epoch, every row exactly once; the one with most tokens, padding included, comes first.

    Batches that will be `packed` have no padding, so their rows are not grouped by length.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        # Descending, and stable: rows of one length keep their random order, and the short batch is the one of short rows.
        pool = pool if packed else pool[np.argsort(-lengths[pool], kind="stable")]
        batches.extend(pool[i : i + batch_size] for i in range(0, len(pool), batch_size))
    batches = [batches[i] for i in random.permutation(len(batches))]
    largest = max(range(len(batches)), key=lambda i: size(lengths[batches[i]], packed=packed))
    return [batches.pop(largest), *batches]


def size(lengths: NDArray[np.int64], *, packed: bool) -> int:
    """Tokens of a batch with rows of these lengths, padding included."""
    return int(lengths.sum()) if packed else len(lengths) * int(lengths.max())


def by_length(lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Batches for a pass without training: longest first."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


@dataclass(frozen=True)
class Schedule:
    """Where each optimizer step's batches are. A step never spans two epochs; an epoch's last step may have fewer batches."""

    lengths: NDArray[np.int64]
    batch_size: int
    accumulation: int
    seed: int
    packed: bool = False

    @property
    def steps_per_epoch(self) -> int:
        return ceil(ceil(len(self.lengths) / self.batch_size) / self.accumulation)

    def epoch(self, number: int) -> list[list[NDArray[np.int64]]]:
        """Per step of this epoch, its batches."""
        batches = epoch_batches(self.lengths, self.batch_size, self.seed, number, packed=self.packed)
        return [batches[i : i + self.accumulation] for i in range(0, len(batches), self.accumulation)]


@dataclass(frozen=True)
class Batch:
    """`input_ids[B, T]`, padded on the right, or packed: B = 1. `positions[L]` index the B*T hidden states that predict `targets[L]`."""

    input_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    tokens: int
    """Tokens of the rows, padding not counted."""
    position_ids: torch.Tensor | None = None
    """[1, T] where rows are packed: each token's place in its own row."""


def collate(rows: Rows, indices: Sequence[int] | NDArray[np.int64], device: torch.device) -> Batch:
    """The tensors of some rows.

    The last token is cut off, as nothing is predicted from it. Padding is token 0: with causal attention and padding on the
    right no real token ever looks at it, so no attention mask is needed and attention takes its fast path.
    """
    width = max(int(rows.lengths[index]) for index in indices)
    ids = np.zeros((len(indices), width), dtype=np.int64)
    mask = np.zeros((len(indices), width), dtype=np.bool_)
    for place, index in enumerate(indices):
        tokens = rows.tokens(index)
        ids[place, : len(tokens)] = tokens
        mask[place, : len(tokens)] = rows.trained(index)
    row, column = np.nonzero(mask[:, 1:])
    return Batch(
        input_ids=torch.from_numpy(np.ascontiguousarray(ids[:, :-1])).to(device),
        positions=torch.from_numpy(row * (width - 1) + column).to(device),
        targets=torch.from_numpy(ids[row, column + 1]).to(device),
        tokens=int(sum(rows.lengths[index] for index in indices)),
    )


def pack(rows: Rows, indices: Sequence[int] | NDArray[np.int64], device: torch.device) -> Batch:
    """The tensors of some rows that lie end to end in one sequence, without padding.

    Positions start at 0 in every row. From that transformers sees where rows begin, and keeps them apart by a block-diagonal mask.
    Each row's last token is cut off.
    """
    lengths = rows.lengths[indices] - 1
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = [rows.tokens(index) for index in indices]
    trained = [np.flatnonzero(rows.trained(index)[1:]) for index in indices]
    ids = np.concatenate([row[:-1] for row in tokens]).astype(np.int64)
    places = np.concatenate([np.arange(length) for length in lengths])
    positions = np.concatenate([start + found for start, found in zip(starts[:-1], trained, strict=True)])
    targets = np.concatenate([row[found + 1] for row, found in zip(tokens, trained, strict=True)]).astype(np.int64)
    return Batch(
        input_ids=torch.from_numpy(ids[None]).to(device),
        positions=torch.from_numpy(positions).to(device),
        targets=torch.from_numpy(targets).to(device),
        tokens=int(lengths.sum()) + len(lengths),
        position_ids=torch.from_numpy(places[None]).to(device),
    )
