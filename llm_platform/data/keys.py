"""What decides whether two rows belong together: stable digests of their texts, and sketches of how like they are.

Digests are XXH3, the same on every machine and in every version, since the split hangs on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from llm_platform.data.cells import as_text
from llm_platform.data.clean import changed_where, not_ascii
from llm_platform.data.near import Bands, sketch
from llm_platform.specs import PreprocessingConfig

_SPACES = dict.fromkeys("\t\n\v\f\r", " ")
NONE = np.uint64(0)
"""Of a group or stratum: the row has none."""


@dataclass(frozen=True)
class Keys:
    """Of N rows. Rows are equal if their `content` is; `prompt`, `group` and `stratum` matter to the split alone."""

    row: NDArray[np.int64]
    content: NDArray[np.uint64]
    """[N, 2]: 128 bits of the whole row, but for case and white space."""
    prompt: NDArray[np.uint64]
    group: NDArray[np.uint64]
    stratum: NDArray[np.uint64]
    signatures: NDArray[np.uint8]
    """[N, PERMUTATIONS], or [N, 0] where nothing asks for near-duplicates; the same for `bands`, [N, B]."""
    bands: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def together(cls, parts: Sequence[Keys]) -> Keys:
        """The rows of all parts, one after the other."""
        return cls(**{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)})


class KeyFile:
    """Keys on disk, batch by batch, so that they are in memory only as far as they are looked at."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._paths = {field.name: folder / field.name for field in fields(Keys)}
        self._shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._rows = 0

    def add(self, keys: Keys) -> None:
        for name, path in self._paths.items():
            values = getattr(keys, name)
            self._shapes[name] = values.dtype, values.shape[1:]
            with path.open("ab") as file:
                values.tofile(file)
        self._rows += len(keys)

    def keys(self) -> Keys:
        """All of them, mapped into memory."""
        return Keys(**{name: self._mapped(path, *self._shapes[name]) for name, path in self._paths.items()})

    def _mapped(self, path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        full = (self._rows, *shape)
        return np.memmap(path, kind, "r", shape=full) if path.stat().st_size else np.empty(full, dtype=kind)


def normalized(texts: pl.Series) -> pl.Series:
    """In lower case, with every run of white space as one space and none at the ends; null counts as empty."""
    texts = texts.fill_null("").str.to_lowercase()
    texts = changed_where(texts, not_ascii, lambda text: text.str.replace_all(r"\s", " "))
    texts = changed_where(texts, lambda text: text.str.contains(r"[\t-\r]"), lambda text: text.str.replace_many(_SPACES))
    texts = changed_where(texts, lambda text: text.str.contains("  ", literal=True), lambda text: text.str.replace_all(" {2,}", " "))
    return texts.str.strip_chars(" ")


def key_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns `row`, `content` and `prompt`, normalised, of rows in a normal form. Only `prompt` is without the system prompt.

    A row without a prompt is its own prompt.
    """
    if "roles" in frame.columns:
        turns = frame.select("row", "roles", text="contents").explode("roles", "text", empty_as_null=True)
        turns = turns.with_columns(normalized(turns["text"]))
        turns = turns.with_columns(text=pl.concat_str("roles", "text", separator=" "))
        asked = pl.col("text").slice(0, pl.len() - 1).filter(pl.col("roles").slice(0, pl.len() - 1) != "system")
        return turns.group_by("row", maintain_order=True).agg(content=pl.col("text").str.join(" "), prompt=asked.str.join(" "))
    slots = frame.select("row", *(normalized(frame[slot]) for slot in ("instruction", "input", "output")))
    prompt = pl.concat_str("instruction", "input", separator=" ").str.strip_chars(" ")
    return slots.select(
        "row",
        content=pl.concat_str(prompt, "output", separator=" ").str.strip_chars(" "),
        prompt=pl.when(prompt == "").then("output").otherwise(prompt),
    )


def keys_of(frame: pl.DataFrame, config: PreprocessingConfig, bands: Bands | None) -> Keys:
    """The keys of rows in a normal form with the columns `row` and, where the split asks for them, `group` and `stratum`."""
    texts = key_texts(frame)
    content = np.frombuffer(b"".join([xxhash.xxh3_128_digest(text.encode()) for text in texts["content"].to_list()]), dtype=">u8")
    empty = np.empty((frame.height, 0))
    signatures, columns = sketch(texts["content"], bands) if bands else (empty.astype(np.uint8), empty.astype(np.uint32))
    return Keys(
        row=frame["row"].to_numpy().astype(np.int64),
        content=content.astype(np.uint64).reshape(-1, 2),
        prompt=digests(texts["prompt"].to_list()),
        group=digests(frame["group"].to_list() if config.split.group_by else [None] * frame.height),
        stratum=digests(frame["stratum"].to_list() if config.split.stratify_by else [None] * frame.height),
        signatures=signatures,
        bands=columns,
    )


def digests(texts: Sequence[str | None]) -> NDArray[np.uint64]:
    """64 bits of each text, [N]; NONE for null."""
    return np.fromiter((0 if text is None else xxhash.xxh3_64_intdigest(text.encode()) or 1 for text in texts), np.uint64, len(texts))


def as_group(frame: pl.DataFrame, column: str) -> pl.Series:
    """A column's cells as text, which is what groups and strata are told apart by."""
    return frame.select(column).rename({column: "cell"}).select(as_text("cell", frame.schema[column]))["cell"]
