"""The first pass over the rows: into a normal form, cleaned, with the keys that duplicates and splits are found by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llm_platform.data.cells import schema
from llm_platform.data.clean import clean_cells, full_rows
from llm_platform.data.engine import Engine
from llm_platform.data.keys import KeyFile, Keys, as_group, keys_of
from llm_platform.data.layout import Columns, normalize, resolve
from llm_platform.data.near import Bands
from llm_platform.data.split import TEST, VALIDATION
from llm_platform.errors import DatasetError
from llm_platform.specs import PreprocessingConfig

SLICE_ROWS = 8_192
"""Rows that are looked at at once."""


@dataclass(frozen=True)
class Piece:
    """A row group of a table. `first_row` numbers its first row over all tables; `given` is the split of its input, or -1."""

    table: Path
    group: int
    first_row: int
    columns: Columns
    given: int


@dataclass(frozen=True)
class Prepared:
    """What a piece became: its rows in a normal form with `row` before it, and the figures of what was done."""

    frame: pl.DataFrame
    keys: Keys
    empty: list[int]
    counts: dict[str, int]


@dataclass(frozen=True)
class PrepareTexts:
    """Reads, normalises and cleans a piece. Without `keyed` the keys are not computed."""

    config: PreprocessingConfig
    bands: Bands | None

    def __call__(self, piece: Piece) -> Prepared:
        parts: list[Prepared] = []
        wanted = [*piece.columns.wanted(), *_split_columns(self.config)]
        with pq.ParquetFile(piece.table) as file:
            table = file.read_row_group(piece.group, columns=list(dict.fromkeys(wanted)))
        raw = pl.DataFrame(pl.from_arrow(table))
        for start in range(0, max(raw.height, 1), SLICE_ROWS):
            parts.append(self._slice(raw.slice(start, SLICE_ROWS), piece, piece.first_row + start))
        counts: Counter[str] = Counter()
        for part in parts:
            counts.update(part.counts)
        return Prepared(
            frame=pl.concat([part.frame for part in parts], rechunk=True),
            keys=Keys.together([part.keys for part in parts]),
            empty=[row for part in parts for row in part.empty],
            counts=dict(counts),
        )

    def _slice(self, raw: pl.DataFrame, piece: Piece, first_row: int) -> Prepared:
        frame = normalize(raw, piece.columns, self.config.system_prompt, first_row).with_row_index("row", first_row)
        frame = frame.with_columns(pl.col("row").cast(pl.Int64))
        split = self.config.split
        if split.group_by:
            frame = frame.with_columns(as_group(raw, split.group_by).alias("group"))
        if split.stratify_by:
            frame = frame.with_columns(as_group(raw, split.stratify_by).alias("stratum"))
        clean = _clean_conversations if piece.columns.messages else _clean_slots
        kept, counts = clean(frame, self.config, piece.columns)
        empty = frame["row"].filter(~frame["row"].is_in(kept["row"].implode())).to_list() if kept.height < frame.height else []
        keys = keys_of(kept, self.config, self.bands)
        return Prepared(kept.drop("group", "stratum", strict=False), keys, empty, counts)


def _split_columns(config: PreprocessingConfig) -> list[str]:
    return [column for column in (config.split.group_by, config.split.stratify_by) if column is not None]


def _clean_slots(frame: pl.DataFrame, config: PreprocessingConfig, columns: Columns) -> tuple[pl.DataFrame, dict[str, int]]:
    slots = ["instruction", "input", "output"]
    frame, counts = clean_cells(frame, slots, config.clean)
    frame = frame.with_columns(pl.col(slots).fill_null(""))
    needed = ["instruction", "output"] if columns.instruction else ["output"]
    return frame.filter(full_rows(frame, needed, "output", config.clean)), counts


def _clean_conversations(frame: pl.DataFrame, config: PreprocessingConfig, _columns: Columns) -> tuple[pl.DataFrame, dict[str, int]]:
    turns = frame.select("row", "roles", content="contents").explode("roles", "content", empty_as_null=True)
    turns, counts = clean_cells(turns, ["content"], config.clean)
    contents = turns.group_by("row", maintain_order=True).agg("content").get_column("content")
    frame = frame.with_columns(contents=contents)
    checked = frame.select(
        # A conversation is as empty as its emptiest turn.
        shortest=pl.col("contents").list.eval(pl.element().str.strip_chars().str.len_chars()).list.min().cast(pl.String).replace("0", ""),
        answer=pl.col("contents").list.last(),
    )
    return frame.filter(full_rows(checked, ["shortest"], "answer", config.clean)), counts


def pieces(tables: Sequence[Path], config: PreprocessingConfig, names: Sequence[str]) -> list[Piece]:
    """The row groups of all tables. Those of inputs that are a split by themselves come first: of equal rows, theirs stay.

    `names` are the input nodes that the tables come from. Raises DatasetError if the columns are not what the config needs.
    """
    found: list[Piece] = []
    first_row = 0
    for table, name in zip(tables, names, strict=True):
        columns = resolve(schema(table)[0].names, config)
        given = TEST if name in config.split.test_inputs else VALIDATION if name in config.split.validation_inputs else -1
        with pq.ParquetFile(table) as file:
            for group in range(file.num_row_groups):
                found.append(Piece(table, group, first_row, columns, given))
                first_row += file.metadata.row_group(group).num_rows
    if len({piece.columns.messages is None for piece in found}) > 1:
        raise DatasetError("Some inputs hold conversations and others single prompts; preprocess them in nodes of their own")
    return sorted(found, key=lambda piece: -piece.given)


class Spool:
    """Tables on disk, by number, for a later pass."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def write(self, number: int, table: pa.Table) -> None:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(self.path(number), table.schema, options=options) as file:
            file.write_table(table)

    def path(self, number: int) -> Path:
        return self._folder / f"{number:06}.arrow"


def read_spooled(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
        return file.read_all()


@dataclass
class Texts:
    """The cleaned rows of all pieces, on disk. Rows have a place: their number in the order of the pieces."""

    rows_in: int
    spool: Spool
    keys: Keys
    starts: NDArray[np.int64]
    """[P + 1]: the place of each piece's first row."""
    given: NDArray[np.int8]
    """[N]: the split that a row's input is, or -1."""
    empty: list[int]
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def chosen(self, mask: NDArray[np.bool_]) -> list[Chosen]:
        """The rows of the mask, piece by piece."""
        bounds = zip(self.starts[:-1], self.starts[1:], strict=True)
        return [Chosen(self.spool.path(number), mask[start:end]) for number, (start, end) in enumerate(bounds)]


@dataclass(frozen=True)
class Chosen:
    """Some rows of a spooled table."""

    path: Path
    mask: NDArray[np.bool_]

    def slices(self) -> Iterator[pl.DataFrame]:
        frame = pl.DataFrame(pl.from_arrow(read_spooled(self.path))).filter(pl.Series(self.mask))
        for start in range(0, frame.height, SLICE_ROWS):
            yield frame.slice(start, SLICE_ROWS)


def prepare_texts(work: Sequence[Piece], config: PreprocessingConfig, folder: Path, engine: Engine, on_rows: Callable[[int], Any]) -> Texts:
    """Makes the first pass into the new folder `folder`; `on_rows` is told the rows done so far."""
    near = config.near_dedup or (config.split.near_duplicates == "together" and _is_split(config))
    bands = Bands.at(config.near_dedup_threshold) if near else None
    folder.mkdir()
    spool, keys = Spool(folder / "texts"), KeyFile(folder / "keys")
    rows_in, starts, given = 0, [0], []
    empty: list[int] = []
    counts: Counter[str] = Counter()
    for number, prepared in enumerate(engine.map(PrepareTexts(config, bands), work)):
        spool.write(number, prepared.frame.to_arrow())
        keys.add(prepared.keys)
        counts.update(prepared.counts)
        empty += prepared.empty
        rows_in += len(prepared.keys) + len(prepared.empty)
        starts.append(starts[-1] + len(prepared.keys))
        given.append(np.full(len(prepared.keys), work[number].given, dtype=np.int8))
        on_rows(rows_in)
    return Texts(rows_in, spool, keys.keys(), np.array(starts), np.concatenate(given), empty, dict(counts))


def _is_split(config: PreprocessingConfig) -> bool:
    return config.split.train < 1 or bool(config.split.validation_inputs or config.split.test_inputs)
