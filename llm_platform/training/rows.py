"""Tokenized rows of a split, as flat arrays: a split of a million rows is four arrays, not a million lists."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_platform.errors import DatasetError


@dataclass(frozen=True)
class Rows:
    """`row[N]` source row numbers; row i's tokens are `ids[offsets[i]:offsets[i+1]]`, `mask` is true where a token is trained."""

    row: NDArray[np.int64]
    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    prompt_length: NDArray[np.int64] | None = None
    """Tokens before each row's last answer, [N]; None if the file does not say."""

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, [N]."""
        return np.diff(self.offsets)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Trained tokens of each row, [N]. A row's first token has nothing before it that could predict it, so it never counts."""
        before = np.concatenate([[0], np.cumsum(self.mask)])
        first = np.zeros(len(self), dtype=np.int64)
        filled = self.lengths > 0
        first[filled] = self.mask[self.offsets[:-1][filled]]
        return before[self.offsets[1:]] - before[self.offsets[:-1]] - first

    def tokens(self, index: int) -> NDArray[np.int32]:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def trained(self, index: int) -> NDArray[np.bool_]:
        return self.mask[self.offsets[index] : self.offsets[index + 1]]

    def prompt(self, index: int) -> NDArray[np.int32]:
        """The tokens before the last answer, or where the file does not say, before the first trained token. At least one token."""
        found = np.argmax(self.trained(index)) if self.prompt_length is None else self.prompt_length[index]
        return self.tokens(index)[: max(1, int(found))]

    def take(self, indices: NDArray[np.int64]) -> Rows:
        """These rows alone."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths[indices])])
        parts = [slice(self.offsets[index], self.offsets[index + 1]) for index in indices]
        prompt_length = None if self.prompt_length is None else self.prompt_length[indices]
        ids = np.concatenate([self.ids[part] for part in parts])
        mask = np.concatenate([self.mask[part] for part in parts])
        return Rows(self.row[indices], ids, mask, offsets, prompt_length)

    def numbers(self, indices: Sequence[int] | NDArray[np.int64]) -> list[int]:
        """Source row numbers, for messages."""
        return [int(self.row[index]) for index in indices]

    def digest(self) -> str:
        """Hex SHA-256 of what is trained on, whichever program wrote the file."""
        found = hashlib.sha256()
        for array in (self.ids, self.mask, self.offsets):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


def read_rows(path: Path) -> Rows:
    """Reads the columns row, input_ids, loss_mask and, where there is one, prompt_length of a split. Raises DatasetError if they are
    not what they should be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    needed = ["row", "input_ids", "loss_mask"]
    try:
        with pq.ParquetFile(path) as file:  # `read_table` imports pandas, which takes longer than the rest of a small training's start
            known = file.schema_arrow.names
            if not set(needed) <= set(known):
                raise ValueError("columns are missing")
            table = file.read(columns=[*needed, *(["prompt_length"] if "prompt_length" in known else [])])
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DatasetError(f"The split {path.name} is missing, is not Parquet, or lacks one of row, input_ids, loss_mask") from error
    try:
        ids, offsets = _flat(table, "input_ids")
        mask, mask_offsets = _flat(table, "loss_mask")
        row, *prompt_length = (
            _array(table.column(name).combine_chunks()).astype(np.int64) for name in table.column_names if name not in needed[1:]
        )
    except (pa.ArrowException, AttributeError, TypeError) as error:
        raise DatasetError(f"The split {path.name} has a column of another type than it should be, or one with nulls") from error
    if not np.array_equal(offsets, mask_offsets):
        raise DatasetError(f"The split {path.name} has rows whose loss_mask is not as long as their input_ids")
    return Rows(row, ids.astype(np.int32, copy=False), mask.astype(np.bool_, copy=False), offsets, *prompt_length)


def _flat(table: Any, column: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The values of a list column in one array, and where each row starts."""
    lists = table.column(column).combine_chunks()
    offsets = _array(lists.offsets).astype(np.int64) if len(lists) else np.zeros(1, dtype=np.int64)
    return _array(lists.flatten()), offsets - offsets[0]


def _array(values: Any) -> NDArray[Any]:
    """Numbers or truth values without nulls as a NumPy array. Raises ArrowTypeError.

    By DLPack, since pyarrow's `to_numpy` imports pandas too; of truth values DLPack knows none.
    """
    import pyarrow as pa

    if not pa.types.is_boolean(values.type):
        return np.from_dlpack(values)
    if values.null_count:
        raise pa.ArrowTypeError("nulls are neither true nor false")
    bits = np.frombuffer(values.buffers()[1] or b"", dtype=np.uint8)
    return np.unpackbits(bits, count=values.offset + len(values), bitorder="little")[values.offset :].view(np.bool_)


def check_rows(rows: Rows, split: str, *, vocabulary: int, context: int | None) -> None:
    """Raises DatasetError, naming rows, if a row cannot be trained on by a model of this vocabulary and context length."""
    untrained = np.flatnonzero(rows.labels == 0)
    if len(untrained):
        raise DatasetError(
            f"{len(untrained)} rows of the {split} split have no trained token, so they would teach nothing: rows "
            f"{_some(rows.numbers(untrained))}. Check that their completions are not empty",
            rows=rows.numbers(untrained[:100]),
        )
    if len(rows) and (int(rows.ids.max()) >= vocabulary or int(rows.ids.min()) < 0):
        raise DatasetError(
            f"The {split} split has token ids outside the base model's vocabulary of {vocabulary}; "
            "it was tokenized for another model. Preprocess it with this base model"
        )
    if context is not None:
        long = np.flatnonzero(rows.lengths > context)
        if len(long):
            raise DatasetError(
                f"{len(long)} rows of the {split} split are longer than the base model's context of {context} tokens: rows "
                f"{_some(rows.numbers(long))}. Lower max_length in preprocessing to {context}",
                rows=rows.numbers(long[:100]),
            )


def _some(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:10])
    return shown if len(numbers) <= 10 else f"{shown} and {len(numbers) - 10} more"
