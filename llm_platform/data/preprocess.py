"""From datasets to tokenized splits: clean, deduplicate, render, tokenise, drop what does not fit, split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llm_platform.data import charts
from llm_platform.data.canonical import shown
from llm_platform.data.cells import schema
from llm_platform.data.clean import clean
from llm_platform.data.dedup import dedup
from llm_platform.data.digest import CODE_VERSION, digest
from llm_platform.data.render import render_slots, slots
from llm_platform.data.split import SPLITS, assign_splits
from llm_platform.data.tokenize import PromptTokenizer, TokenArrays, tokenizer_digest
from llm_platform.errors import DatasetError
from llm_platform.reporting import Reporter
from llm_platform.specs import PreprocessingConfig
from llm_platform.specs.base import Resource

BATCH_ROWS = 4_096
SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("prompt", pa.string()),
        pa.field("completion", pa.string()),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("loss_mask", pa.list_(pa.bool_())),
    ]
)
"""Of every split. `row` counts from 0 over the tables one after the other; both lists have the row's number of tokens."""


class PreprocessingReport(Resource):
    """What became of the rows. Lengths are in tokens, over the rows of all splits.

    `funnel` has the rows left after each stage: `in`, `cleaned`, `deduplicated`, `fitting`, and then each split's.
    `digest` addresses the result by its inputs: tables, config, tokenizer and code version.
    """

    rows_in: int
    funnel: dict[str, int]
    cleaned: dict[str, int]
    duplicates: int
    too_long: int
    no_trainable_token: int
    splits: dict[str, int]
    tokens: dict[str, int]
    trainable_tokens: int
    mean_length: float
    max_length: int
    tokenizer_digest: str
    digest: str


@dataclass(frozen=True)
class _Cleaned:
    """The rows that are left, as text columns row, instruction, input, output, and the counts so far."""

    frame: pl.DataFrame
    rows_in: int
    counts: dict[str, int]


@dataclass(frozen=True)
class _Tokenized:
    """Rows in SCHEMA, and how many were left out because they were too long or had nothing to train on."""

    table: pa.Table
    too_long: int
    untrainable: int


def check_mapping(columns: Sequence[str], config: PreprocessingConfig) -> None:
    """Raises DatasetError, with the field's path, if a mapped column is not among `columns`."""
    mapping = config.template_mapping
    slots_to_columns = {"instruction": mapping.instruction, "input": mapping.input, "output": mapping.output}
    missing = {slot: column for slot, column in slots_to_columns.items() if column is not None and column not in columns}
    if missing:
        told = ", ".join(f"{shown(column)} (template_mapping.{slot})" for slot, column in missing.items())
        known = ", ".join(shown(column) for column in list(columns)[:50])
        errors = [{"field": f"template_mapping.{slot}", "message": f"no column {shown(column)}"} for slot, column in missing.items()]
        raise DatasetError(
            f"The dataset has no column {told}; its columns are {known}",
            field=errors[0]["field"],
            errors=errors,
            columns=list(columns)[:1000],
        )


def preprocessing_key(tables: Sequence[Path], config: PreprocessingConfig, tokenizer_folder: Path) -> str:
    """The content address of what `preprocess` makes of these inputs, without making it."""
    settings = config.model_dump(mode="json", exclude={"base_model"})  # the tokenizer counts, not what its model is called
    return digest(CODE_VERSION, settings, tokenizer_digest(tokenizer_folder), *tables)


def preprocess(
    tables: list[Path], config: PreprocessingConfig, tokenizer_folder: Path, out: Path, reporter: Reporter
) -> PreprocessingReport:
    """Writes train.parquet, validation.parquet and test.parquet (each in SCHEMA) and preprocessing.json into the folder `out`.

    The same inputs and config give the same bytes. Raises DatasetError if a mapped column is missing or nothing is left to
    train on, InvalidConfig if the tokenizer cannot be used, Cancelled if the reporter says so.
    """
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    read = _read(tables, config)
    cleaned = _clean(read, config, reporter)
    kept, duplicates = cleaned.frame, 0
    if config.dedup:
        kept, dropped = dedup(cleaned.frame, ["instruction", "input", "output"])
        duplicates = dropped.height
    reporter.check_cancelled()
    tokenized = _tokenize(kept, config, tokenizer, reporter)
    if tokenized.table.num_rows == 0:
        raise _nothing_left(cleaned, tokenized, config)
    names = assign_splits(pl.Series(tokenized.table["prompt"]), config.split, config.seed)
    splits = {name: tokenized.table.filter((names == name).to_arrow()) for name in SPLITS}
    lengths = pl.Series(tokenized.table["input_ids"]).list.len()
    rows = {name: split.num_rows for name, split in splits.items()}
    report = PreprocessingReport(
        rows_in=cleaned.rows_in,
        funnel={
            "in": cleaned.rows_in,
            "cleaned": cleaned.frame.height,
            "deduplicated": kept.height,
            "fitting": tokenized.table.num_rows,
            **rows,
        },
        cleaned=cleaned.counts,
        duplicates=duplicates,
        too_long=tokenized.too_long,
        no_trainable_token=tokenized.untrainable,
        splits=rows,
        tokens={name: _count(split["input_ids"]) for name, split in splits.items()},
        trainable_tokens=int(pl.Series(tokenized.table["loss_mask"]).list.sum().sum()),
        mean_length=round(float(lengths.cast(pl.Int64).sum()) / len(lengths), 2),
        max_length=int(lengths.to_numpy().max()),
        tokenizer_digest=tokenizer_digest(tokenizer_folder),
        digest=preprocessing_key(tables, config, tokenizer_folder),
    )
    reporter.check_cancelled()
    out.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        _write(split, out / f"{name}.parquet")
    (out / "preprocessing.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _tell(report, reporter)
    return report


def prepare_rows(table: Path, config: PreprocessingConfig, tokenizer_folder: Path, out: Path, reporter: Reporter) -> int:
    """Cleans, renders and tokenises a whole dataset into one file in SCHEMA, without deduplication or split.

    Returns the number of rows written. Raises as `preprocess` does.
    """
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    cleaned = _clean(_read([table], config), config, reporter)
    tokenized = _tokenize(cleaned.frame, config, tokenizer, reporter)
    if tokenized.table.num_rows == 0:
        raise _nothing_left(cleaned, tokenized, config)
    _write(tokenized.table, out)
    reporter.info(f"{cleaned.rows_in:,} rows in; {tokenized.table.num_rows:,} rows ready", rows=tokenized.table.num_rows)
    return tokenized.table.num_rows


def funnel_png(report: PreprocessingReport) -> bytes:
    """How many rows each stage left, as a small PNG."""
    return charts.rows(list(report.funnel), list(report.funnel.values()), title="Rows left after each stage")


def _read(tables: Sequence[Path], config: PreprocessingConfig) -> pl.DataFrame:
    """The mapped columns of all tables as text, with `row` counting from 0 over all of them."""
    mapping = config.template_mapping
    frames: list[pl.DataFrame] = []
    for path in tables:
        names = schema(path)[0].names
        check_mapping(names, config)
        wanted = list(dict.fromkeys(column for column in (mapping.instruction, mapping.input, mapping.output) if column is not None))
        frames.append(slots(pl.DataFrame(pq.read_table(path, columns=wanted).select(wanted)), mapping))
    return pl.concat(frames).with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))


def _clean(read: pl.DataFrame, config: PreprocessingConfig, reporter: Reporter) -> _Cleaned:
    reporter.check_cancelled()
    if not config.clean:
        return _Cleaned(read, read.height, {})
    frame, counts = clean(read, needed=["instruction", "output"], optional=["input"])
    return _Cleaned(frame, read.height, counts)


def _tokenize(frame: pl.DataFrame, config: PreprocessingConfig, tokenizer: PromptTokenizer, reporter: Reporter) -> _Tokenized:
    """Renders and tokenises batch by batch. A row whose completion is blank has nothing to learn and is left out."""
    parts: list[pa.Table] = []
    long_rows: list[int] = []
    untrainable = 0
    for start in range(0, frame.height, BATCH_ROWS):
        reporter.check_cancelled()
        batch = frame.slice(start, BATCH_ROWS)
        rendered = batch.select("row").hstack(render_slots(batch, config.template))
        filled = rendered.filter(pl.col("completion").str.strip_chars() != "")
        untrainable += rendered.height - filled.height
        tokens = tokenizer.encode_arrays(filled["prompt"].to_list(), filled["completion"].to_list())
        part = _part(filled, tokens)
        fits = np.diff(tokens.offsets) <= config.max_length
        if not fits.all():
            long_rows += filled["row"].filter(pl.Series(~fits)).to_list()
            part = part.filter(pa.array(fits))
        parts.append(part)
        reporter.progress(min(start + BATCH_ROWS, frame.height), frame.height, "rows tokenized")
    if long_rows and config.truncation == "fail":
        first = ", ".join(f"{row + 1:,}" for row in long_rows[:10])
        raise DatasetError(
            f"{len(long_rows):,} of {frame.height:,} rows have more than {config.max_length:,} tokens (first: rows {first}); "
            "raise max_length, or set truncation to drop",
            too_long=len(long_rows),
            rows=[row + 1 for row in long_rows[:100]],
        )
    table = pa.concat_tables(parts) if parts else SCHEMA.empty_table()
    return _Tokenized(table.combine_chunks(), len(long_rows), untrainable)


def _part(rendered: pl.DataFrame, tokens: TokenArrays) -> pa.Table:
    columns: list[pa.Array] = [rendered[name].to_arrow().cast(SCHEMA.field(name).type) for name in ("row", "prompt", "completion")]
    offsets = pa.array(tokens.offsets, pa.int32())
    columns += [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (tokens.ids, tokens.mask)]
    return pa.table([column.cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _nothing_left(cleaned: _Cleaned, tokenized: _Tokenized, config: PreprocessingConfig) -> DatasetError:
    """Why no row is left, with counts."""
    empty = cleaned.counts.get("empty_rows", 0)
    reasons = {
        f"have more than {config.max_length:,} tokens (max_length)": tokenized.too_long,
        "have an empty completion": tokenized.untrainable,
        "have an empty instruction or output": empty,
    }
    told = "; ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
    return DatasetError(
        f"None of the {cleaned.rows_in:,} rows can be used: {told}",
        rows=cleaned.rows_in,
        too_long=tokenized.too_long,
        no_trainable_token=tokenized.untrainable,
        empty_rows=empty,
    )


def _count(lists: pa.ChunkedArray) -> int:
    return int(pl.Series(lists).list.len().cast(pl.Int64).sum())


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", row_group_size=16_384)


def _tell(report: PreprocessingReport, reporter: Reporter) -> None:
    splits = ", ".join(f"{name} {rows:,}" for name, rows in report.splits.items())
    parts = [
        f"{report.rows_in:,} rows in",
        f"{report.cleaned.get('empty_rows', 0):,} empty rows removed",
        f"{report.duplicates:,} duplicates removed",
        f"{report.too_long:,} too long",
        f"{report.no_trainable_token:,} without a trainable token",
        f"splits: {splits}",
        f"{sum(report.tokens.values()):,} tokens, {report.trainable_tokens:,} of them trained",
    ]
    reporter.info("; ".join(parts), splits=report.splits, tokens=report.tokens)
    changed = ", ".join(f"{rule} {count:,}" for rule, count in report.cleaned.items() if count and rule != "empty_rows")
    if changed:
        reporter.info(f"Cells changed by cleaning: {changed}", cleaned=report.cleaned)


def read_report(out: Path) -> PreprocessingReport:
    """The report that `preprocess` left in the folder."""
    return PreprocessingReport.model_validate(json.loads((out / "preprocessing.json").read_text(encoding="utf-8")))
