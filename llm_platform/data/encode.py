"""Rows in a normal form as token ids and loss masks: rendered, tokenised, and cut to length.

Trained are the answers, each with what ends its turn; the last one ends with EOS. An answer that was cut is not taught to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers.decoders import DecodeStream

from llm_platform.data.render import Template
from llm_platform.data.tokenize import PromptTokenizer
from llm_platform.data.words import Tokens
from llm_platform.specs import PreprocessingConfig

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("prompt", pa.string()),
        pa.field("completion", pa.string()),
        pa.field("prompt_length", pa.int32()),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("loss_mask", pa.list_(pa.bool_())),
    ]
)
"""Of every split. `prompt` is the text before the last answer and `completion` the last answer's content, both before they were cut to
length; `prompt_length` is the number of tokens before the last answer, from which generation starts. Both lists have one item
per token of the row; BOS and EOS are among them."""


@dataclass(frozen=True)
class Encoded:
    """`table` has the rows kept, in order and in SCHEMA. The lists have values of the column `row`."""

    table: pa.Table
    too_long: list[int]
    """Rows that were left out because they have more than max_length tokens, or cannot be cut to it."""
    truncated: list[int]
    """Rows that were kept, and cut."""
    untrainable: list[int]
    """Rows that were left out because their last answer is blank, or no token of theirs would be trained."""


class Token(NamedTuple):
    id: int
    text: str
    """What it adds to the text. The first tokens of a character that takes several have none."""
    trained: bool


@dataclass(frozen=True)
class _Masked:
    """Flat tokens of N rows, as in `Tokens`; `start` [N] is the place of each row's last answer among its tokens."""

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    start: NDArray[np.int64]

    def kept(self, tokens: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64]]:
        """Ids, mask and offsets of these tokens alone."""
        before = np.concatenate([[0], np.cumsum(tokens)])
        return self.ids[tokens], self.mask[tokens], before[self.offsets]


def encode_rows(frame: pl.DataFrame, template: Template, tokenizer: PromptTokenizer, config: PreprocessingConfig) -> Encoded:
    """Renders, tokenises and cuts rows in one of the two normal forms (see layout.py) with the column `row`.

    With truncation `fail` the rows that are too long are left out too; it is the caller who fails. May be called by several threads
    at once. Raises DatasetError for rows that the template cannot render.
    """
    rendered = pl.concat([frame.select("row"), template.mark(frame)], how="horizontal")
    blank = rendered["completion"].str.strip_chars() == ""
    filled = rendered.filter(~blank)
    masked = _masked(tokenizer.encode(filled["marked"]), config)
    lengths = np.diff(masked.offsets)
    too_long, truncated = np.zeros((2, len(lengths)), dtype=bool)
    ids, mask, offsets, start = masked.ids, masked.mask, masked.offsets, masked.start
    long = lengths > config.max_length
    if long.any():
        if config.truncation == "truncate_end":
            truncated = long
            ids, mask, offsets = masked.kept(_places(masked) < config.max_length)
            start = np.minimum(start, config.max_length)
        elif config.truncation == "truncate_prompt":
            begin = int(tokenizer.bos_id is not None)
            too_long = lengths - masked.start + max(1, begin) > config.max_length
            truncated = long & ~too_long
            excess = np.where(truncated, lengths - config.max_length, 0)
            places, cut = _places(masked), np.repeat(excess, lengths)
            ids, mask, offsets = masked.kept((places < begin) | (places >= begin + cut))
            start = start - excess
        else:
            too_long = long
    mask = mask.copy()
    mask[offsets[:-1]] = False  # nothing comes before a row's first token that could predict it
    trained = np.diff(np.concatenate([[0], np.cumsum(mask)])[offsets])
    untrainable = (trained == 0) & ~too_long
    arrays: list[pa.Array] = [filled[name].to_arrow().cast(SCHEMA.field(name).type) for name in ("row", "prompt", "completion")]
    arrays.append(pa.array(start, pa.int32()))
    arrays += [pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values)) for values in (ids, mask)]
    table = pa.table(arrays, schema=SCHEMA)
    if too_long.any() or untrainable.any():
        table = table.filter(pa.array(~too_long & ~untrainable))
    rows = filled["row"].to_numpy()
    return Encoded(
        table=table,
        too_long=rows[too_long].tolist(),
        truncated=rows[truncated & ~untrainable].tolist(),
        untrainable=sorted([*rendered["row"].filter(blank), *rows[untrainable].tolist()]),
    )


def _masked(tokens: Tokens, config: PreprocessingConfig) -> _Masked:
    last = tokens.first[1:] - 1
    start = tokens.answers[last, 0] - tokens.offsets[:-1]
    if config.train_on == "all":
        return _Masked(tokens.ids, np.ones(len(tokens.ids), dtype=bool), tokens.offsets, start)
    answers = tokens.answers if config.train_on == "completions" else tokens.answers[last]
    lengths = np.diff(np.concatenate([[0], answers.ravel()]))
    return _Masked(tokens.ids, np.repeat(np.tile([False, True], len(answers)), lengths), tokens.offsets, start)


def _places(masked: _Masked) -> NDArray[np.int64]:
    """The place of each token in its row."""
    return np.arange(len(masked.ids)) - np.repeat(masked.offsets[:-1], np.diff(masked.offsets))


def shown_tokens(table: pa.Table, tokenizer: PromptTokenizer) -> Iterator[list[Token]]:
    """The tokens of each row of a table in SCHEMA. Their texts, one after the other, are the rendered row."""
    for row in table.select(["input_ids", "loss_mask"]).to_pylist():
        yield _shown(row["input_ids"], row["loss_mask"], tokenizer)


def _shown(ids: Sequence[int], mask: Sequence[bool], tokenizer: PromptTokenizer) -> list[Token]:
    stream = DecodeStream(skip_special_tokens=False)
    texts = [stream.step(tokenizer.tokenizers[0], number) or "" for number in ids]
    return [Token(*found) for found in zip(ids, texts, mask, strict=True)]
