"""Checks a dataset against its layout and the user's rules. Pandera does the checking, batch by batch; what it finds is added up."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandera.polars as pandera
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pandera.constants import CHECK_OUTPUT_KEY
from pandera.errors import SchemaError, SchemaErrorReason, SchemaErrors

from llm_platform.data.canonical import Source, writer
from llm_platform.data.cells import collect, empty, scan, schema
from llm_platform.data.layout import Columns, detect_layout
from llm_platform.data.repeats import Repeats, find_repeats
from llm_platform.data.rules import (
    CheckName,
    Rule,
    check_rules,
    column_rules,
    conversation_rule,
    filled_rule,
    null_share,
    required_columns,
)
from llm_platform.data.validation_report import (
    CheckResult,
    Count,
    Severity,
    ValidationReport,
    Violation,
    Violations,
    check_result,
)
from llm_platform.specs import ValidationConfig

BATCH_ROWS = 65_536
_ROWS = "rows"
"""Key of the repeats of whole rows; those of a column have its safe name."""


@dataclass(frozen=True)
class _Table:
    """The table and what was counted over the whole of it. Columns go by their safe names."""

    path: Path
    names: list[str]
    kinds: pl.Schema
    rows: int
    layout: Columns
    empties: dict[str, int]
    repeats: dict[str, Repeats]

    def cell(self, name: str) -> str:
        return f"c{self.names.index(name)}"

    def name(self, cell: str) -> str:
        return self.names[int(cell[1:])]


@dataclass
class _Found:
    """What one pass over the rows found: for each rule the rows that break it and those dropped first for it, which rows hold
    (a bit each), and how many of these have an empty cell in a watched column, or repeat an earlier row."""

    broken: Counter[int] = field(default_factory=Counter)
    dropped: Counter[int] = field(default_factory=Counter)
    kept: list[pl.Series] = field(default_factory=list)
    empties: Counter[str] = field(default_factory=Counter)
    repeated: int = 0

    @property
    def rows_kept(self) -> int:
        return sum(int(kept.sum()) for kept in self.kept)


def validate(table: Path, config: ValidationConfig, out: Path | None = None, report: Path | None = None) -> ValidationReport:
    """Four checks. `schema`: required columns, none wholly empty, the detected layout's columns of a type that it can use, its
    conversations usable. `rules`: the column rules. `nulls`: null or blank cells over their share. `duplicates`: exact repeats of
    a whole row over their share.

    on_error="drop" leaves out every row that breaks a rule, and writes the others to `out` if any row was left out and any is
    left. What is left fulfils the rules: where a share is exceeded only because other rows went, those rows go too. A repeat is
    a repeat also if the first of its kind is dropped. What concerns the whole table cannot be mended so.

    Into the folder `report` go violations.parquet, report.json and report.md. Memory: one batch, 1 bit for each row and key of
    repeats, and what `find_repeats` says; its hashes are spilled into `report`, or the temporary folder. Raises DatasetError if the
    table is not readable, InvalidConfig if a rule can be none.
    """
    check_rules(config.rules)
    with tempfile.TemporaryDirectory(dir=report, prefix="hashes-") as scratch:
        facts = _count(table, config, Path(scratch))
    problems = _table_problems(facts, config)
    wholly = {facts.cell(str(problem.column)) for problem in problems if problem.rule == "empty_column"}
    strict = {cell for cell in facts.kinds if _too_empty(facts, config, cell, facts.empties[cell], facts.rows)} - wholly
    repeats = _too_repeated(config, int(facts.repeats[_ROWS].mask.sum()), facts.rows)
    while True:
        rules = _rules(facts, config, problems, strict, repeats)
        with Violations(report) as violations:
            if problems:
                violations.add(_frame(problems))
            found = _check(facts, rules, set(facts.kinds) - strict - wholly, violations)
        if config.on_error != "drop":
            break
        # Shares are of the rows that are left, so dropping some can break the share of others.
        left = found.rows_kept
        more = {cell for cell, count in found.empties.items() if left and _too_empty(facts, config, cell, count, left)}
        repeat_more = not repeats and bool(left) and _too_repeated(config, found.repeated, left)
        if not more and not repeat_more:
            break
        strict, repeats = strict | more, repeats or repeat_more
    rows_out = found.rows_kept if config.on_error == "drop" else facts.rows
    if out is not None and 0 < rows_out < facts.rows:
        _write(facts.path, out, found.kept)
    result = _report(facts, config, problems, rules, found, violations, rows_out)
    if report is not None:
        result.write(report)
    return result


def _count(path: Path, config: ValidationConfig, scratch: Path) -> _Table:
    arrow, rows = schema(path)
    frame, names = scan(path)
    kinds = frame.collect_schema()
    empties = collect(frame.select(empty(cell, kind).sum().alias(cell) for cell, kind in kinds.items())).row(0, named=True)
    unique = {rule.column for rule in config.rules.columns if rule.unique} & set(names)
    keys = {_ROWS: pl.struct(pl.all())} | {cell: pl.col(cell) for cell in kinds if names[int(cell[1:])] in unique}
    repeats = dict(find_repeats(frame, keys, rows, scratch))
    return _Table(path, names, kinds, rows, detect_layout(arrow.names), empties, repeats)


def _needed(layout: Columns) -> set[str]:
    """The columns without which there is nothing to train on."""
    return {column for column in (layout.instruction, layout.output, layout.messages) if column is not None}


def _too_empty(facts: _Table, config: ValidationConfig, cell: str, empties: int, rows: int) -> bool:
    if not empties:
        return False
    name = facts.name(cell)
    return empties / rows > null_share(config.rules, name) or (empties == rows and name in _needed(facts.layout))


def _too_repeated(config: ValidationConfig, repeated: int, rows: int) -> bool:
    return repeated > 0 and repeated / rows > config.rules.max_duplicate_share


def _table_problems(facts: _Table, config: ValidationConfig) -> list[Violation]:
    """What dropping rows cannot mend."""
    wanted = {f"wanted {number}": name for number, name in enumerate(required_columns(config.rules))}
    columns = {facts.cell(name) if name in facts.names else key: pandera.Column(nullable=True) for key, name in wanted.items()}
    missing = [str(error.failure_cases) for error in _errors(pandera.DataFrameSchema(columns), pl.DataFrame(schema=facts.kinds))]
    problems = [Violation(rule="missing_column", column=wanted[key], row=None, value=None) for key in missing]
    for cell, kind in facts.kinds.items():
        name = facts.name(cell)
        if facts.empties[cell] == facts.rows and _too_empty(facts, config, cell, facts.rows, facts.rows):
            problems.append(Violation(rule="empty_column", column=name, row=None, value=None))
        if name in _needed(facts.layout) and not _fits(facts.layout, name, kind):
            problems.append(Violation(rule="layout", column=name, row=None, value=str(kind)[:200]))
    return problems


def _fits(layout: Columns, column: str, kind: pl.DataType) -> bool:
    """Conversations are lists of turns, or text; prompts and answers are no lists or structs."""
    return kind == pl.String or kind.is_nested() == (column == layout.messages)


def _rules(facts: _Table, config: ValidationConfig, problems: Sequence[Violation], strict: set[str], repeats: bool) -> list[Rule]:
    rules: list[Rule] = []
    messages = facts.layout.messages
    if messages is not None and not any(problem.rule == "layout" for problem in problems):
        rules.append(conversation_rule(messages, facts.cell(messages), facts.kinds[facts.cell(messages)]))
    for rule in config.rules.columns:
        if rule.column not in facts.names:
            continue
        cell = facts.cell(rule.column)
        rules += column_rules(rule, cell, facts.kinds[cell])
        if rule.unique:
            value = filled_rule(rule.column, cell, facts.kinds[cell]).value
            rules.append(Rule("rules", "unique", rule.column, pl.col(_repeated(cell)), value))
    rules += [filled_rule(facts.name(cell), cell, kind) for cell, kind in facts.kinds.items() if cell in strict]
    if repeats:
        told = pl.lit("repeats row ") + pl.col("first").cast(pl.String).fill_null("before it")
        rules.append(Rule("duplicates", "duplicates", None, pl.col(_repeated(_ROWS)), told))
    return rules


def _repeated(key: str) -> str:
    return f"repeated {key}"


def _check(facts: _Table, rules: list[Rule], watched: set[str], violations: Violations) -> _Found:
    """One pass over the rows, in batches."""
    found = _Found()
    pandera_schema = _pandera(rules)
    empties = {cell: empty(cell, kind) for cell, kind in facts.kinds.items() if cell in watched and facts.empties[cell]}
    for before, batch in _batches(facts):
        broken = dict(_broken(error) for error in _errors(pandera_schema, batch))
        kept = pl.repeat(True, batch.height, dtype=pl.Boolean, eager=True)
        parts: list[pl.DataFrame] = []
        for number, rows in sorted(broken.items()):
            found.broken[number] += int(rows.sum())
            found.dropped[number] += int((rows & kept).sum())
            kept = kept & ~rows
            room = violations.room(rules[number].check)
            if room:
                parts.append(_violations(rules[number], batch, rows, before, room))
        if parts:
            violations.add(pl.concat(parts).sort("row", maintain_order=True))
        found.kept.append(kept)
        left = batch.filter(kept) if broken else batch
        found.empties.update(left.select(cells.sum().alias(cell) for cell, cells in empties.items()).row(0, named=True) if empties else {})
        found.repeated += int(left[_repeated(_ROWS)].sum())
    return found


def _batches(facts: _Table) -> Iterator[tuple[int, pl.DataFrame]]:
    """The rows with safe names, and for each key whether they are repeats; with each batch how many rows came before it."""
    before = 0
    for batch in _arrow_batches(facts.path):
        safe = pa.RecordBatch.from_arrays(batch.columns, names=list(facts.kinds))
        frame = pl.DataFrame(safe)
        masks = [repeats.mask.slice(before, frame.height).alias(_repeated(key)) for key, repeats in facts.repeats.items()]
        first = facts.repeats[_ROWS].first(before, frame.height) + 1
        yield before, frame.with_columns(*masks, first.alias("first"))
        before += frame.height


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Batches that lie in one row group each: those are bounded in bytes, whatever the length of a row."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group])


def _pandera(rules: Sequence[Rule]) -> pandera.DataFrameSchema:
    """Pandera's schema of a batch. Each check has its rule's number for a name.

    Pandera writes a cell that fails as text, which polars cannot do with every type; so all checks hang on a column of booleans. One
    failing cell is enough: which rows they are is in the check's output.
    """
    checks = [pandera.Check(_holds(rule), name=str(number), ignore_na=False, n_failure_cases=1) for number, rule in enumerate(rules)]
    return pandera.DataFrameSchema({_repeated(_ROWS): pandera.Column(pl.Boolean, checks)})


def _holds(rule: Rule) -> Any:
    return lambda data: data.lazyframe.select(~rule.broken)


def _errors(rules: pandera.DataFrameSchema, frame: pl.DataFrame) -> list[SchemaError]:
    """All that Pandera finds wrong with a frame."""
    try:
        rules.validate(frame, lazy=True)
    except SchemaErrors as errors:
        for error in errors.schema_errors:
            if error.reason_code is SchemaErrorReason.CHECK_ERROR:
                raise RuntimeError(f"check {error.check} of column {error.column_name} could not be run: {error.failure_cases}") from None
        return errors.schema_errors
    return []


def _broken(error: SchemaError) -> tuple[int, pl.Series]:
    """The number of a rule, and for each row whether it breaks it."""
    check: Any = error.check
    output: Any = error.check_output
    return int(check.name), ~output[CHECK_OUTPUT_KEY]


def _violations(rule: Rule, batch: pl.DataFrame, rows: pl.Series, before: int, most: int) -> pl.DataFrame:
    """The first violations of one rule in a batch, as rows for `Violations.add`."""
    where = rows.arg_true().head(most)
    cells = batch.select(set(rule.value.meta.root_names()))[where]
    return pl.DataFrame(
        {
            "check": pl.repeat(rule.check, where.len(), eager=True),
            "rule": pl.repeat(rule.name, where.len(), eager=True),
            "column": pl.repeat(rule.column, where.len(), dtype=pl.String, eager=True),
            "row": where.cast(pl.Int64) + before + 1,
            "value": cells.select(rule.value.alias("value"))["value"],
        }
    )


def _frame(problems: Sequence[Violation]) -> pl.DataFrame:
    kinds = {"check": pl.String, "rule": pl.String, "column": pl.String, "row": pl.Int64, "value": pl.String}
    return pl.DataFrame([{"check": "schema", **problem.model_dump()} for problem in problems], schema=kinds)


def _write(path: Path, out: Path, kept: Sequence[pl.Series]) -> None:
    with pq.ParquetFile(path) as file:
        kinds = file.schema_arrow
    with writer(out, kinds, Source("the dataset")) as result:
        for batch, rows in zip(_arrow_batches(path), kept, strict=True):
            result.write(batch.filter(rows.to_arrow()))


def _report(
    facts: _Table,
    config: ValidationConfig,
    problems: Sequence[Violation],
    rules: Sequence[Rule],
    found: _Found,
    violations: Violations,
    rows_out: int,
) -> ValidationReport:
    dropping = config.on_error == "drop"
    counts: dict[CheckName, list[Count]] = {"schema": [], "rules": [], "nulls": [], "duplicates": []}
    counts["schema"] += [Count(rule=problem.rule, column=problem.column, violations=1, rows_dropped=0) for problem in problems]
    for number, rule in enumerate(rules):
        if found.broken[number]:
            dropped = found.dropped[number] if dropping else 0
            counts[rule.check].append(Count(rule=rule.name, column=rule.column, violations=found.broken[number], rows_dropped=dropped))
    result: list[CheckResult] = []
    for name, of_check in counts.items():
        mended = dropping and rows_out and not (name == "schema" and problems)
        severity: Severity = "WARN" if config.on_error == "warn" or mended else "ERROR"
        note, sound = _words(name, facts, config)
        result.append(check_result(name, of_check, violations.examples.get(name, []), severity, note, sound))
    return ValidationReport(
        layout=facts.layout.layout,
        rows_in=facts.rows,
        rows_out=rows_out,
        violations=sum(check.failures for check in result),
        violations_stored=violations.stored,
        checks=result,
        passed=rows_out > 0 and all(check.passed or check.severity == "WARN" for check in result),
    )


def _words(name: CheckName, facts: _Table, config: ValidationConfig) -> tuple[str, str]:
    """What follows the message of a failed check, and the message of one that passed."""
    if name == "schema":
        known = ", ".join(facts.names[:50])
        return f"; the columns are {known}", f"{len(facts.names)} columns, all there and none wholly empty; layout {facts.layout.layout}"
    if name == "rules":
        return "", f"{len(config.rules.columns)} column rules hold"
    if name == "nulls":
        total = sum(facts.empties.values())
        return f" in {facts.rows:,} rows", f"{total:,} empty cells, within the allowed share"
    repeated = int(facts.repeats[_ROWS].mask.sum())
    allowed = f" (allowed share {config.rules.max_duplicate_share:g})"
    return f" of {facts.rows:,}{allowed}", f"{repeated:,} of {facts.rows:,} rows repeat an earlier row"
