"""Checks a dataset against rules. Pandera does the checking, batch by batch; what it finds is added up over the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandera.polars as pandera
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pandera.errors import SchemaErrors

from llm_platform.data.canonical import Source, shown, writer
from llm_platform.data.cells import collect, empty, json_safe, scan, schema
from llm_platform.errors import DatasetError
from llm_platform.specs import ValidationConfig
from llm_platform.specs.base import Resource

EXAMPLES = 10
BATCH_ROWS = 65_536
_REPEATED = "repeated"


class Example(Resource):
    """One failure. `row` counts from 1; it is null for what concerns the whole table."""

    rule: str
    column: str | None
    row: int | None
    value: Any


class CheckResult(Resource):
    """`severity` is ERROR where a failure stops the job, WARN where it is repaired by dropping rows or only reported."""

    name: Literal["schema", "nulls", "duplicates"]
    passed: bool
    severity: Literal["ERROR", "WARN"]
    failures: int
    message: str
    examples: list[Example]


class ValidationReport(Resource):
    """`passed` says that the job may go on; a check can have failed nevertheless, with severity WARN."""

    rows_in: int
    rows_out: int
    checks: list[CheckResult]
    passed: bool

    def raise_if_failed(self) -> None:
        """Raises DatasetError, with the first ten failures in its metadata, unless `passed`."""
        if self.passed:
            return
        failed = [check for check in self.checks if not check.passed and check.severity == "ERROR"]
        examples = [example.model_dump(mode="json") for check in failed for example in check.examples]
        raise DatasetError(
            "Validation failed: " + "; ".join(check.message for check in failed),
            checks=[check.name for check in failed],
            errors=examples[:EXAMPLES],
            rows=self.rows_in,
        )

    def to_markdown(self) -> str:
        lines = [
            f"**{self.rows_in:,}** rows in, **{self.rows_out:,}** rows out, validation **{'passed' if self.passed else 'failed'}**.",
            "",
            "| check | result | failures | what was found |",
            "|---|---|---:|---|",
        ]
        for check in self.checks:
            result = "passed" if check.passed else {"ERROR": "failed", "WARN": "warning"}[check.severity]
            lines.append(f"| {check.name} | {result} | {check.failures:,} | {_cell(check.message)} |")
        examples = [example for check in self.checks for example in check.examples]
        if examples:
            lines += ["", "| rule | column | row | value |", "|---|---|---:|---|"]
        for example in examples:
            row = "" if example.row is None else f"{example.row:,}"
            lines.append(f"| {example.rule} | {_cell(example.column or '')} | {row} | {_cell(str(example.value))} |")
        return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", " ").replace("\n", " ").replace("<", "&lt;")


@dataclass
class _Found:
    """What Pandera found over the batches so far. Columns go by their safe names, c0, c1, ..."""

    names: list[str]
    empty: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    missing: list[str] = field(default_factory=list)
    empty_examples: list[Example] = field(default_factory=list)
    repeated_rows: list[int] = field(default_factory=list)
    others: list[Example] = field(default_factory=list)

    def add(self, errors: SchemaErrors, batch: pl.DataFrame, before: int) -> None:
        cases: pl.DataFrame = pl.DataFrame(errors.failure_cases)
        for (column, check), part in cases.group_by(["column", "check"], maintain_order=True):
            self._add_check(str(column), str(check), part, batch, before)

    def _add_check(self, column: str, check: str, part: pl.DataFrame, batch: pl.DataFrame, before: int) -> None:
        rows = [int(index) for index in part["index"].head(EXAMPLES) if index is not None]
        if check == "not_empty":
            self.empty[column] += part.height
            name = self.names[int(column[1:])]
            for row in rows[: EXAMPLES - len(self.empty_examples)]:
                value = json_safe(batch[column][row], 200)
                self.empty_examples.append(Example(rule="nulls", column=name, row=before + row + 1, value=value))
        elif check == "not_repeated":
            self.repeated += part.height
            self.repeated_rows += [before + row for row in rows[: EXAMPLES - len(self.repeated_rows)]]
        elif check == "column_in_dataframe":
            self.missing = [str(name) for name in part["failure_case"]]
        else:
            name = self.names[int(column[1:])] if column.startswith("c") else None
            self.others.append(Example(rule="schema", column=name, row=None, value=check))


def validate(table: Path, config: ValidationConfig, out: Path | None) -> ValidationReport:
    """Checks `schema`, `nulls` (null or blank cells) and `duplicates` (exact repeats of a whole row).

    With on_error="drop" the rows that break a rule are left out and the others written to `out`, if it is given and any row
    was left out. A missing or wholly empty column cannot be mended by dropping rows; one that is wholly empty is allowed by
    max_null_share=1. Memory grows by 9 bytes a row. Raises DatasetError if the table is not readable.
    """
    arrow, rows = schema(table)
    frame, names = scan(table)
    hashes = collect(frame.select(pl.struct(pl.all()).hash().alias("hash")))["hash"]
    repeated = ~hashes.is_first_distinct()
    found = _Found(names)
    kinds = frame.collect_schema()
    rules = _rules(kinds, arrow, config)
    before = 0
    for batch in _batches(table):
        part = batch.with_columns(repeated.slice(before, batch.height).alias(_REPEATED))
        try:
            rules.validate(part, lazy=True)
        except SchemaErrors as errors:
            found.add(errors, part, before)
        before += batch.height
    empties = [column for column, count in found.empty.items() if count > config.rules.max_null_share * rows]
    wholly = [column for column in empties if found.empty[column] == rows]
    broken = [column for column in empties if column not in wholly]
    repeats = found.repeated > config.rules.max_duplicate_share * rows
    rows_out = rows
    if config.on_error == "drop" and (broken or repeats):
        rows_out = _drop(table, out, [(column, kinds[column]) for column in broken], repeated if repeats else None)
    severity: Literal["ERROR", "WARN"] = "WARN" if config.on_error == "warn" else "ERROR"
    repaired: Literal["ERROR", "WARN"] = "WARN" if config.on_error == "drop" and rows_out else severity
    checks = [
        _schema_check(found, wholly, severity),
        _nulls_check(found, empties, rows, config.rules.max_null_share, repaired),
        _duplicates_check(found, hashes, repeats, rows, config.rules.max_duplicate_share, repaired),
    ]
    passed = all(check.passed or check.severity == "WARN" for check in checks)
    return ValidationReport(rows_in=rows, rows_out=rows_out, checks=checks, passed=passed)


def _batches(table: Path) -> Iterator[pl.DataFrame]:
    with pq.ParquetFile(table) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            safe = pa.RecordBatch.from_arrays(batch.columns, names=[f"c{index}" for index in range(batch.num_columns)])
            frame = pl.from_arrow(safe)
            if isinstance(frame, pl.DataFrame):
                yield frame


def _rules(kinds: pl.Schema, arrow: pa.Schema, config: ValidationConfig) -> pandera.DataFrameSchema:
    """Pandera's schema of a batch: every column with its type, filled, plus the columns that must be there."""
    columns = {
        column: pandera.Column(kind, pandera.Check(_filled(column, kind), name="not_empty", ignore_na=False), nullable=True)
        for column, kind in kinds.items()
    }
    missing = [name for name in dict.fromkeys(config.rules.required_columns) if name not in arrow.names]
    columns |= {name: pandera.Column(required=True, nullable=True) for name in missing}
    columns[_REPEATED] = pandera.Column(pl.Boolean, pandera.Check(_not_repeated, name="not_repeated"))
    return pandera.DataFrameSchema(columns)


def _filled(column: str, kind: pl.DataType) -> Any:
    return lambda data: data.lazyframe.select((~empty(column, kind)).alias(column))


def _not_repeated(data: Any) -> pl.LazyFrame:
    return data.lazyframe.select(~pl.col(_REPEATED))


def _drop(table: Path, out: Path | None, broken: list[tuple[str, pl.DataType]], repeated: pl.Series | None) -> int:
    """Writes the rows without an empty cell in the broken columns and without repeats; returns how many there are."""
    frame, _ = scan(table)
    keep = ~pl.any_horizontal(pl.lit(False), *(empty(column, kind) for column, kind in broken))
    kept = collect(frame.select(keep.alias("keep")))["keep"]
    if repeated is not None:
        kept = kept & ~repeated
    count = int(kept.sum())
    if out is not None and 0 < count < kept.len():
        with pq.ParquetFile(table) as file, writer(out, file.schema_arrow, Source("the dataset")) as result:
            before = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                mask = kept.slice(before, batch.num_rows).to_arrow()
                result.write(batch.filter(mask))
                before += batch.num_rows
    return count


def _schema_check(found: _Found, wholly: list[str], severity: Literal["ERROR", "WARN"]) -> CheckResult:
    examples = [Example(rule="schema", column=name, row=None, value="missing") for name in found.missing]
    examples += [Example(rule="schema", column=found.names[int(column[1:])], row=None, value="wholly empty") for column in wholly]
    examples += found.others
    told = [f"column {shown(str(example.column))} is {example.value}" for example in examples[:EXAMPLES]]
    message = "; ".join(told) + (f"; the columns are {', '.join(found.names[:50])}" if found.missing else "")
    return CheckResult(
        name="schema",
        passed=not examples,
        severity=severity,
        failures=len(examples),
        message=message or f"{len(found.names)} columns, all there and none wholly empty",
        examples=examples[:EXAMPLES],
    )


def _nulls_check(found: _Found, empties: list[str], rows: int, most: float, severity: Literal["ERROR", "WARN"]) -> CheckResult:
    told = [f"column {shown(found.names[int(column[1:])])} has {found.empty[column]:,} empty cells in {rows:,} rows" for column in empties]
    total = sum(found.empty.values())
    return CheckResult(
        name="nulls",
        passed=not empties,
        severity=severity,
        failures=sum(found.empty[column] for column in empties),
        message="; ".join(told[:EXAMPLES]) + f" (allowed share {most:g})"
        if empties
        else f"{total:,} empty cells, within the allowed share",
        examples=[example for example in found.empty_examples if example.column in {found.names[int(column[1:])] for column in empties}],
    )


def _duplicates_check(
    found: _Found, hashes: pl.Series, failed: bool, rows: int, most: float, severity: Literal["ERROR", "WARN"]
) -> CheckResult:
    first = [(row, int((hashes == hashes[row]).arg_max() or 0)) for row in found.repeated_rows] if failed else []
    message = f"{found.repeated:,} of {rows:,} rows repeat an earlier row"
    return CheckResult(
        name="duplicates",
        passed=not failed,
        severity=severity,
        failures=found.repeated if failed else 0,
        message=f"{message} (allowed share {most:g})" if failed else message,
        examples=[Example(rule="duplicates", column=None, row=row + 1, value=f"repeats row {kept + 1:,}") for row, kept in first],
    )
