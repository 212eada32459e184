"""From datasets to tokenized splits: clean, deduplicate, render, tokenise, drop what does not fit, split.

Three passes over the rows, each in bounded memory: into clean texts, into tokens, into the splits' files. Between them only
keys are in memory, a hundred bytes a row or so.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llm_platform.data.contamination import Contamination, contamination
from llm_platform.data.dedup import Kept, deduplicate
from llm_platform.data.digest import CODE_VERSION, digest
from llm_platform.data.encode import SCHEMA
from llm_platform.data.engine import Engine, LocalEngine
from llm_platform.data.figures import histogram
from llm_platform.data.report import FILE, PreprocessingReport
from llm_platform.data.split import LEFT_OUT, SPLITS, TEST, TRAIN, assign_splits
from llm_platform.data.texts import Piece, Texts, pieces, prepare_texts
from llm_platform.data.tokenize import tokenizer_digest
from llm_platform.data.tokens import EncodeTexts, Tokens, encode_texts
from llm_platform.errors import DatasetError
from llm_platform.reporting import Reporter
from llm_platform.specs import PreprocessingConfig

DROPPED = "dropped.parquet"
"""Which rows went, why, and which row stands for them: `row` and `kept_row` count from 0, as in SCHEMA."""


def preprocessing_key(tables: Sequence[Path], config: PreprocessingConfig, tokenizer_folder: Path, names: Sequence[str]) -> str:
    """The content address of what `preprocess` makes of these inputs, without making it."""
    settings = config.model_dump(mode="json", exclude={"base_model"})  # the tokenizer counts, not what its model is called
    given = {"given": [name if name in [*config.split.validation_inputs, *config.split.test_inputs] else None for name in names]}
    return digest(CODE_VERSION, settings, given, tokenizer_digest(tokenizer_folder), *tables)


def preprocess(
    tables: Sequence[Path],
    config: PreprocessingConfig,
    tokenizer_folder: Path,
    out: Path,
    reporter: Reporter,
    *,
    names: Sequence[str] = (),
    engine: Engine | None = None,
) -> PreprocessingReport:
    """Writes train.parquet, validation.parquet and test.parquet (each in SCHEMA), dropped.parquet and preprocessing.json into `out`.

    `names` are the input nodes of the tables, by which the config names inputs that are a split by themselves. The same inputs
    and config give the same bytes, whichever the engine. Raises DatasetError if a mapped column is missing or nothing is left
    to train on, InvalidConfig if the tokenizer or the template cannot be used, Cancelled if the reporter says so.
    """
    engine = engine or LocalEngine()
    encode = EncodeTexts(config, tokenizer_folder)
    encode.tools()
    work = pieces(tables, config, names or [""] * len(tables))
    with _spill(out) as spill:
        texts = _texts(work, config, spill, engine, reporter)
        reporter.check_cancelled()
        kept = deduplicate(texts.keys, config)
        tokens = _tokens(texts, kept, encode, spill, engine, reporter)
        splits = assign_splits(texts.keys, tokens.places, kept.near, texts.given[tokens.places], config.split, config.seed)
        found = _contamination(texts, kept, tokens, splits, reporter) if config.contamination and (splits == TEST).any() else None
        reporter.check_cancelled()
        out.mkdir(parents=True, exist_ok=True)
        _write_splits(tokens, splits, out, reporter)
        _write_dropped(texts, kept, tokens, splits, out)
        key = preprocessing_key(tables, config, tokenizer_folder, names or [""] * len(tables))
        report = _report(work, texts, kept, tokens, splits, found, tokenizer_digest(tokenizer_folder), key)
    (out / FILE).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    report.tell(reporter)
    return report


def prepare_rows(table: Path, config: PreprocessingConfig, tokenizer_folder: Path, out: Path, reporter: Reporter) -> int:
    """Cleans, renders and tokenises a whole dataset into one file in SCHEMA, without deduplication or split.

    Returns the number of rows written. Raises as `preprocess` does.
    """
    alone = {"split": config.split.model_copy(update={"near_duplicates": "ignore", "group_by": None, "stratify_by": None})}
    config = config.model_copy(update={"dedup": False, "near_dedup": False, **alone})
    encode, engine = EncodeTexts(config, tokenizer_folder), LocalEngine()
    encode.tools()
    with _spill(out) as spill:
        texts = _texts(pieces([table], config, [""]), config, spill, engine, reporter)
        tokens = _tokens(texts, deduplicate(texts.keys, config), encode, spill, engine, reporter)
        with _writer(out) as file:
            for _, part in tokens.tables():
                _append(file, part)
    rows = len(tokens.places)
    reporter.info(f"{texts.rows_in:,} rows in; {rows:,} rows ready", rows=rows)
    return rows


@contextmanager
def _spill(out: Path) -> Iterator[Path]:
    """A folder beside the output for what does not stay in memory; its name ends as that of other unfinished work does."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix="spill-", suffix=".tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _texts(work: Sequence[Piece], config: PreprocessingConfig, spill: Path, engine: Engine, reporter: Reporter) -> Texts:
    total = sum(pq.read_metadata(path).num_rows for path in dict.fromkeys(piece.table for piece in work))

    def told(rows: int) -> None:
        reporter.check_cancelled()
        reporter.progress(rows, total, "rows cleaned")

    return prepare_texts(work, config, spill / "cleaned", engine, told)


def _tokens(texts: Texts, kept: Kept, encode: EncodeTexts, spill: Path, engine: Engine, reporter: Reporter) -> Tokens:
    """Raises DatasetError if no row is left, or rows are too long and the config says that this is a failure."""
    config, total = encode.config, int(kept.mask.sum())

    def told(rows: int) -> None:
        reporter.check_cancelled()
        reporter.progress(rows, total, "rows tokenized")

    tokens = encode_texts(texts, texts.chosen(kept.mask), encode, spill / "tokens", engine, told)
    if tokens.too_long and config.truncation == "fail":
        rows = sorted(tokens.too_long)
        first = ", ".join(f"{row + 1:,}" for row in rows[:10])
        raise DatasetError(
            f"{len(rows):,} of {total:,} rows have more than {config.max_length:,} tokens (first: rows {first}); "
            "raise max_length, or set truncation to drop",
            too_long=len(rows),
            rows=[row + 1 for row in rows[:100]],
        )
    if not len(tokens.places):
        raise _nothing_left(texts, tokens, config)
    return tokens


def _nothing_left(texts: Texts, tokens: Tokens, config: PreprocessingConfig) -> DatasetError:
    """Why no row is left, with counts."""
    reasons = {
        f"have more than {config.max_length:,} tokens (max_length)": len(tokens.too_long),
        "have nothing to train on, such as an empty completion": len(tokens.untrainable),
        "have an empty instruction or output": len(texts.empty),
    }
    told = "; ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
    return DatasetError(
        f"None of the {texts.rows_in:,} rows can be used: {told}",
        rows=texts.rows_in,
        too_long=len(tokens.too_long),
        no_trainable_token=len(tokens.untrainable),
        empty_rows=len(texts.empty),
    )


def _contamination(texts: Texts, kept: Kept, tokens: Tokens, splits: NDArray[np.int8], reporter: Reporter) -> Contamination:
    test, train = tokens.places[splits == TEST], tokens.places[splits == TRAIN]
    near = int(np.isin(kept.near[test], kept.near[train]).sum()) if kept.near is not None else 0
    masks = [np.zeros(len(texts), dtype=np.bool_) for _ in range(2)]
    masks[0][test] = True
    masks[1][train] = True
    return contamination(texts.chosen(masks[0]), texts.chosen(masks[1]), len(test), near, reporter.check_cancelled)


@contextmanager
def _writer(path: Path) -> Iterator[pq.ParquetWriter]:
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as file:
        yield file


def _append(file: pq.ParquetWriter, rows: pa.Table) -> None:
    if rows.num_rows:
        file.write_table(rows, row_group_size=16_384)


def _write_splits(tokens: Tokens, splits: NDArray[np.int8], out: Path, reporter: Reporter) -> None:
    with ExitStack() as stack:
        files = [stack.enter_context(_writer(out / f"{name}.parquet")) for name in SPLITS]
        for part, table in tokens.tables():
            reporter.check_cancelled()
            for number, file in enumerate(files):
                _append(file, table.filter(pa.array(splits[part] == number)))


def _write_dropped(texts: Texts, kept: Kept, tokens: Tokens, splits: NDArray[np.int8], out: Path) -> None:
    rows = texts.keys.row
    fallen = np.flatnonzero(~kept.mask)
    equal = kept.equal[fallen]
    left_out = tokens.places[splits == LEFT_OUT]
    stand_in = rows[kept.stands[fallen]]
    nothing = pl.lit(None, dtype=pl.Int64)
    parts = [pl.DataFrame({"row": rows[fallen], "reason": np.where(equal, "duplicate", "near_duplicate"), "kept_row": stand_in})] + [
        pl.DataFrame({"row": np.asarray(found, dtype=np.int64)}).with_columns(reason=pl.lit(reason), kept_row=nothing)
        for reason, found in (
            ("empty", texts.empty),
            ("too_long", tokens.too_long),
            ("no_trainable_token", tokens.untrainable),
            ("bound_to_given_split", rows[left_out]),
        )
    ]
    kinds = pl.Schema({"row": pl.Int64, "reason": pl.String, "kept_row": pl.Int64})
    pl.concat([part.cast(kinds) for part in parts]).sort("row").write_parquet(out / DROPPED)


def _report(
    work: Sequence[Piece],
    texts: Texts,
    kept: Kept,
    tokens: Tokens,
    splits: NDArray[np.int8],
    found: Contamination | None,
    tokenizer: str,
    key: str,
) -> PreprocessingReport:
    stay = splits != LEFT_OUT
    lengths = tokens.lengths[stay]
    rows = {name: int((splits == number).sum()) for number, name in enumerate(SPLITS)}
    fallen = ~kept.mask
    columns = work[0].columns
    return PreprocessingReport(
        layout=columns.layout,
        columns={slot: column for slot in ("system", "instruction", "input", "output", "messages") if (column := getattr(columns, slot))},
        rows_in=texts.rows_in,
        funnel={
            "in": texts.rows_in,
            "cleaned": len(texts),
            "deduplicated": int(kept.mask.sum()),
            "fitting": len(tokens.places),
            **rows,
        },
        cleaned={**texts.counts, "empty_rows": len(texts.empty)},
        duplicates=int((fallen & kept.equal).sum()),
        near_duplicates=int((fallen & ~kept.equal).sum()),
        too_long=len(tokens.too_long),
        truncated=len(tokens.truncated),
        no_trainable_token=len(tokens.untrainable),
        left_out=int((splits == LEFT_OUT).sum()),
        splits=rows,
        tokens={name: int(tokens.lengths[splits == number].sum()) for number, name in enumerate(SPLITS)},
        trainable_tokens=int(tokens.trained[stay].sum()),
        mean_length=round(float(lengths.mean()), 2),
        max_length=int(lengths.max()),
        lengths=histogram(Counter(lengths.tolist())),
        contamination=found,
        tokenizer_digest=tokenizer,
        digest=key,
    )
