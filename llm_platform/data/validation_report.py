"""What a validation found: the checks with their counts and first examples, a readable table, and every violation in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llm_platform.data.canonical import shown
from llm_platform.data.rules import CheckName
from llm_platform.errors import DatasetError
from llm_platform.specs.base import Resource

Severity = Literal["ERROR", "WARN"]
EXAMPLES = 10
SUMMARY_COUNTS = 100
MOST_VIOLATIONS = 1_000_000
VIOLATIONS = pa.schema(
    [
        pa.field("rule", pa.string(), nullable=False),
        pa.field("column", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("value", pa.string()),
    ]
)
"""Of violations.parquet, in the order of the rows; see Violation."""


class Violation(Resource):
    """`row` counts from 1 and is null for what concerns the whole table; `column` is null for what concerns whole rows.

    `value` is the cell as text, cut to 200 characters; for `conversation` it is what is wrong, for `duplicates` which row is repeated.
    """

    rule: str
    column: str | None
    row: int | None
    value: str | None


class Count(Resource):
    """How often one rule was broken in one column. A dropped row counts once, for the first rule that it broke."""

    rule: str
    column: str | None
    violations: int
    rows_dropped: int


class CheckResult(Resource):
    """`severity` is ERROR where a failure stops the job, WARN where it is repaired by dropping rows or only reported."""

    name: CheckName
    passed: bool
    severity: Severity
    failures: int
    message: str
    counts: list[Count]
    examples: list[Violation]


class ValidationReport(Resource):
    """`passed` says that the job may go on; a check can have failed nevertheless, with severity WARN.

    Of the `violations`, `violations_stored` are in violations.parquet: the first MOST_VIOLATIONS.
    """

    layout: str
    rows_in: int
    rows_out: int
    violations: int
    violations_stored: int
    checks: list[CheckResult]
    passed: bool

    def raise_if_failed(self) -> None:
        """Raises DatasetError, with the first ten violations in its metadata, unless `passed`."""
        if self.passed:
            return
        failed = [check for check in self.checks if not check.passed and check.severity == "ERROR"]
        examples = [example.model_dump(mode="json") for check in failed for example in check.examples]
        told = [f"{check.name}: {check.message}" for check in failed]
        if not self.rows_out:
            told.insert(0, f"none of the {self.rows_in:,} rows is left")
        raise DatasetError(
            f"Validation failed: {'; '.join(told)}",
            checks=[check.name for check in failed],
            errors=examples[:EXAMPLES],
            rows=self.rows_in,
            violations=self.violations,
            counts=[count.model_dump(mode="json") for check in failed for count in check.counts][:SUMMARY_COUNTS],
        )

    def dropped(self) -> list[Count]:
        """The rules for which rows were dropped; their `rows_dropped` add up to the rows that went in and not out."""
        return [count for check in self.checks for count in check.counts if count.rows_dropped]

    def summary(self) -> ValidationReport:
        """The report with at most SUMMARY_COUNTS counts in each check, those of the most violations."""
        short = [check.model_copy(update={"counts": _largest(check.counts)}) for check in self.checks]
        return self.model_copy(update={"checks": short})

    def to_markdown(self) -> str:
        lines = [
            f"**{self.rows_in:,}** rows in, **{self.rows_out:,}** rows out, **{self.violations:,}** violations, "
            f"validation **{'passed' if self.passed else 'failed'}**. Layout: {self.layout}.",
            "",
            "| check | result | failures | what was found |",
            "|---|---|---:|---|",
        ]
        for check in self.checks:
            result = "passed" if check.passed else {"ERROR": "failed", "WARN": "warning"}[check.severity]
            lines.append(f"| {check.name} | {result} | {check.failures:,} | {_cell(check.message)} |")
        counts = _largest([count for check in self.checks for count in check.counts])
        if counts:
            lines += ["", "| rule | column | violations | rows dropped |", "|---|---|---:|---:|"]
        for count in counts:
            lines.append(f"| {count.rule} | {_cell(count.column or '')} | {count.violations:,} | {count.rows_dropped:,} |")
        examples = [example for check in self.checks for example in check.examples]
        if examples:
            lines += ["", "| rule | column | row | value |", "|---|---|---:|---|"]
        for example in examples:
            row = "" if example.row is None else f"{example.row:,}"
            value = "" if example.value is None else example.value
            lines.append(f"| {example.rule} | {_cell(example.column or '')} | {row} | {_cell(value)} |")
        if 0 < self.violations_stored < self.violations:
            more = self.violations - self.violations_stored
            lines += ["", f"violations.parquet has the first {self.violations_stored:,}; {more:,} more were found."]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Writes report.json and report.md."""
        (folder / "report.json").write_text(json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(self.to_markdown(), encoding="utf-8")


class Violations:
    """Takes violations in the order of the rows: counts them, keeps the first ten of each check, and writes the first
    MOST_VIOLATIONS into violations.parquet in `folder`, if one is given."""

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else pq.ParquetWriter(folder / "violations.parquet", VIOLATIONS, compression="zstd")
        self.stored = 0
        self.examples: dict[str, list[Violation]] = {}

    def __enter__(self) -> Violations:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def room(self, check: CheckName) -> int:
        """How many violations of a check are worth giving to `add`."""
        wanted = EXAMPLES - len(self.examples.get(check, []))
        return max(wanted, 0 if self._file is None else MOST_VIOLATIONS - self.stored)

    def add(self, found: pl.DataFrame) -> None:
        """Adds rows of the columns check, rule, column, row and value."""
        for check, part in found.group_by("check", maintain_order=True):
            kept = self.examples.setdefault(str(check[0]), [])
            kept += [Violation(**row) for row in part.drop("check").head(EXAMPLES - len(kept)).to_dicts()]
        if self._file is not None and self.stored < MOST_VIOLATIONS:
            stored = found.drop("check").head(MOST_VIOLATIONS - self.stored)
            self._file.write_table(stored.to_arrow().cast(VIOLATIONS))
            self.stored += stored.height


def check_result(name: CheckName, counts: list[Count], examples: list[Violation], severity: Severity, note: str, sound: str) -> CheckResult:
    """The result of one check. `note` follows the message of a failed check, `sound` is the message of one that passed."""
    told = [_told(count) for count in counts[:EXAMPLES]] + (["..."] if len(counts) > EXAMPLES else [])
    return CheckResult(
        name=name,
        passed=not counts,
        severity=severity,
        failures=sum(count.violations for count in counts),
        message="; ".join(told) + note if counts else sound,
        counts=counts,
        examples=examples,
    )


_TABLE_RULES = {
    "missing_column": "is missing",
    "empty_column": "is wholly empty",
    "layout": "has a type that the layout does not allow",
}


def _told(count: Count) -> str:
    if count.rule in _TABLE_RULES:
        return f"column {shown(str(count.column))} {_TABLE_RULES[count.rule]}"
    if count.column is None:
        return f"{count.violations:,} rows repeat an earlier row"
    if count.rule == "nulls":
        return f"column {shown(count.column)} has {count.violations:,} empty cells"
    return f"column {shown(count.column)} breaks {count.rule} in {count.violations:,} rows"


def _largest(counts: list[Count]) -> list[Count]:
    return sorted(counts, key=lambda count: -count.violations)[:SUMMARY_COUNTS]


_ESCAPED = str.maketrans({"\\": "\\\\", "|": "\\|", "[": "\\[", "`": "\\`", "<": "&lt;", "\r": " ", "\n": " "})


def _cell(text: str) -> str:
    """For a cell of a Markdown table: one line, without HTML, links and pictures."""
    return text.translate(_ESCAPED)
