"""The second pass over the rows: rendered, tokenized and masked, on disk until it is known which split they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from llm_platform.data.encode import SCHEMA, Encoded, encode_rows
from llm_platform.data.engine import Engine
from llm_platform.data.render import Template
from llm_platform.data.texts import Chosen, Spool, Texts, read_spooled
from llm_platform.data.tokenize import PromptTokenizer
from llm_platform.specs import PreprocessingConfig


class EncodeTexts:
    """Encodes some rows of a spooled table. What it needs is loaded once a process, on first use."""

    def __init__(self, config: PreprocessingConfig, tokenizer_folder: Path) -> None:
        self.config = config
        self.tokenizer_folder = tokenizer_folder
        self._lock = Lock()
        self._tools: tuple[PromptTokenizer, Template] | None = None

    def __reduce__(self) -> tuple[type[EncodeTexts], tuple[PreprocessingConfig, Path]]:
        return EncodeTexts, (self.config, self.tokenizer_folder)

    def tools(self) -> tuple[PromptTokenizer, Template]:
        """Raises InvalidConfig if the tokenizer or the template cannot be used."""
        with self._lock:
            if self._tools is None:
                tokenizer = PromptTokenizer.from_folder(self.tokenizer_folder)
                self._tools = tokenizer, Template.load(self.config, tokenizer)
            return self._tools

    def __call__(self, chosen: Chosen) -> Encoded:
        tokenizer, template = self.tools()
        parts = [encode_rows(frame, template, tokenizer, self.config) for frame in chosen.slices()]
        return Encoded(
            table=pa.concat_tables([SCHEMA.empty_table(), *(part.table for part in parts)]),
            too_long=[row for part in parts for row in part.too_long],
            truncated=[row for part in parts for row in part.truncated],
            untrainable=[row for part in parts for row in part.untrainable],
        )


@dataclass
class Tokens:
    """The rows that fit, on disk. `places` [F] are theirs among the texts', `lengths` and `trained` [F] count tokens."""

    spool: Spool
    starts: list[int] = field(default_factory=lambda: [0])
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    trained: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    too_long: list[int] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)
    untrainable: list[int] = field(default_factory=list)

    def tables(self) -> Iterator[tuple[slice, pa.Table]]:
        """The rows in SCHEMA, piece by piece, and where they are among all."""
        for number, (start, end) in enumerate(zip(self.starts[:-1], self.starts[1:], strict=True)):
            yield slice(start, end), read_spooled(self.spool.path(number))


def encode_texts(
    texts: Texts, chosen: Sequence[Chosen], encode: EncodeTexts, folder: Path, engine: Engine, on_rows: Callable[[int], Any]
) -> Tokens:
    """Makes the second pass into the new folder `folder`; `on_rows` is told the rows done so far."""
    found = Tokens(Spool(folder))
    places: list[NDArray[np.int64]] = []
    lengths: list[NDArray[np.int64]] = []
    trained: list[NDArray[np.int64]] = []
    done = 0
    for number, encoded in enumerate(engine.map(encode, chosen)):
        found.spool.write(number, encoded.table)
        first = int(texts.starts[number])
        rows = texts.keys.row[first : int(texts.starts[number + 1])]
        places.append(first + np.searchsorted(rows, encoded.table["row"].to_numpy()))
        lengths.append(pl.Series(encoded.table["input_ids"]).list.len().to_numpy().astype(np.int64))
        trained.append(pl.Series(encoded.table["loss_mask"]).list.sum().to_numpy().astype(np.int64))
        found.starts.append(found.starts[-1] + encoded.table.num_rows)
        found.too_long += encoded.too_long
        found.truncated += encoded.truncated
        found.untrainable += encoded.untrainable
        done += int(chosen[number].mask.sum())
        on_rows(done)
    if places:
        found.places, found.lengths, found.trained = np.concatenate(places), np.concatenate(lengths), np.concatenate(trained)
    return found
