"""The rules that a row can break, as polars expressions, and what no rule can be.

Columns go by their safe names, c0, c1, ..., as `cells.scan` gives them; a broken rule is told with the column's own name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from llm_platform.data.canonical import shown
from llm_platform.data.cells import as_text, empty
from llm_platform.data.layout import conversation
from llm_platform.errors import DatasetError, InvalidConfig
from llm_platform.specs import ValidationRules
from llm_platform.specs.agents import ColumnRule

CheckName = Literal["schema", "rules", "nulls", "duplicates"]
VALUE_CHARACTERS = 200
_CONVERSATIONS = 4_096
"""Conversations that are Python objects at a time."""

_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
_OFFSET = r" ?(Z|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])"
_DATETIME = rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([T ]{_TIME}({_OFFSET})?)?$"


@dataclass(frozen=True)
class Rule:
    """`broken` is true, and never null, in each row that breaks the rule; `value` is what the report then shows, as text.

    `column` is the true name, null where the rule is about whole rows.
    """

    check: CheckName
    name: str
    column: str | None
    broken: pl.Expr
    value: pl.Expr


def check_rules(rules: ValidationRules, columns: Sequence[str] | None = None) -> None:
    """Raises an error with every field's path for rules that are known to fail before a row is read.

    InvalidConfig: a pattern that polars cannot compile, or bounds on something that is no number. DatasetError: a column that must
    be there and is not among `columns`; null means that the columns are not known.
    """
    wrong: list[dict[str, str]] = []
    for number, rule in enumerate(rules.columns):
        problem = None if rule.pattern is None else _pattern_problem(rule.pattern)
        if problem:
            wrong.append({"field": f"rules.columns.{number}.pattern", "message": f"{shown(str(rule.pattern))} is no pattern: {problem}"})
        if rule.type in ("boolean", "datetime"):
            given = [name for name in ("min", "max") if getattr(rule, name) is not None]
            told = f"only numbers have bounds; the type is '{rule.type}'"
            wrong += [{"field": f"rules.columns.{number}.{name}", "message": told} for name in given]
    if wrong:
        raise InvalidConfig("; ".join(f"{item['field']}: {item['message']}" for item in wrong[:10]), errors=wrong)
    absent = [] if columns is None else [item for item in _required(rules) if item[1] not in columns]
    if absent and columns is not None:
        known = ", ".join(shown(column) for column in list(columns)[:50])
        raise DatasetError(
            f"The dataset has no column {', '.join(shown(column) for _, column in absent[:10])}; its columns are {known}",
            errors=[{"field": field, "message": f"no column {shown(column)}"} for field, column in absent],
            columns=list(columns)[:1000],
        )


def required_columns(rules: ValidationRules) -> list[str]:
    """The columns that must be there, each once."""
    return list(dict.fromkeys(column for _, column in _required(rules)))


def null_share(rules: ValidationRules, column: str) -> float:
    """The allowed share of empty cells: the column's own, the smallest if it has several, else the general one."""
    own = [rule.max_null_share for rule in rules.columns if rule.column == column and rule.max_null_share is not None]
    return min(own, default=rules.max_null_share)


def column_rules(rule: ColumnRule, cell: str, kind: pl.DataType) -> list[Rule]:
    """What a rule of the config asks of each cell that is not empty; `unique` is not among it.

    What satisfies `type`, white space around a text being of no account:

    - `string`: a text, and all that is written as one: numbers, booleans, dates. Not lists and structs.
    - `integer`: a whole number; a text of digits with or without a sign ("12", "-3", not "1.0" and not "1e3").
    - `number`: a number that is not NaN or infinite; a text that reads as one ("12", "-1.5", ".5", "1e3", not "1,000").
    - `boolean`: a boolean; the texts "true" and "false" in any case.
    - `datetime`: a date, or a date and time; the text of an existing day as ISO 8601 writes it, with or without time, fraction and
      offset ("2024-02-29", "2024-02-29T13:05", "2024-02-29 13:05:59.5+01:00").

    Numbers and dates are compared with `pattern`, `allowed` and the lengths as they are written in a prompt. A cell that reads as no
    number breaks `min` and `max`, unless `type` says so already.
    """
    text, number = as_text(cell, kind), _number(cell, kind)
    told = rule.type in ("integer", "number")
    fulfilled: dict[str, pl.Expr] = {}
    if rule.type is not None:
        fulfilled["type"] = _TYPES[rule.type](cell, kind)
    if rule.min is not None:
        fulfilled["min"] = (number >= rule.min).fill_null(told)
    if rule.max is not None:
        fulfilled["max"] = (number <= rule.max).fill_null(told)
    if rule.pattern is not None:
        fulfilled["pattern"] = text.str.contains(rule.pattern)
    if rule.allowed is not None:
        fulfilled["allowed"] = text.is_in(rule.allowed)
    if rule.min_length is not None:
        fulfilled["min_length"] = text.str.len_chars() >= rule.min_length
    if rule.max_length is not None:
        fulfilled["max_length"] = text.str.len_chars() <= rule.max_length
    full, value = ~empty(cell, kind), short(text)
    return [Rule("rules", name, rule.column, full & ~holds.fill_null(False), value) for name, holds in fulfilled.items()]


def conversation_rule(column: str, cell: str, kind: pl.DataType) -> Rule:
    """Every cell that is not empty holds a usable conversation; the value shown is what is wrong with it."""
    problem = pl.col(cell).map_batches(_conversation_problems, return_dtype=pl.String)
    return Rule("schema", "conversation", column, ~empty(cell, kind) & problem.is_not_null(), short(problem))


def filled_rule(column: str, cell: str, kind: pl.DataType) -> Rule:
    """No cell is empty."""
    return Rule("nulls", "nulls", column, empty(cell, kind), short(as_text(cell, kind)))


def short(text: pl.Expr) -> pl.Expr:
    """The text, cut to VALUE_CHARACTERS."""
    return pl.when(text.str.len_chars() > VALUE_CHARACTERS).then(text.str.head(VALUE_CHARACTERS - 1) + "…").otherwise(text)


def _required(rules: ValidationRules) -> list[tuple[str, str]]:
    """The columns that must be there, behind their fields' paths."""
    general = [(f"rules.required_columns.{number}", column) for number, column in enumerate(rules.required_columns)]
    return general + [(f"rules.columns.{number}.column", rule.column) for number, rule in enumerate(rules.columns) if rule.required]


def _pattern_problem(pattern: str) -> str | None:
    try:
        pl.select(pl.lit("").str.contains(pattern))
    except pl.exceptions.ComputeError as error:
        told = str(error).split("\n\nThis error occurred", 1)[0]
        return told.rsplit("error: ", 1)[-1].strip()
    return None


def _number(cell: str, kind: pl.DataType) -> pl.Expr:
    """The cell as a finite number; null where it is none."""
    if kind != pl.String and not kind.is_numeric():
        return pl.lit(None, dtype=pl.Float64)
    source = pl.col(cell).str.strip_chars() if kind == pl.String else pl.col(cell)
    number = source.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def _is_string(_cell: str, kind: pl.DataType) -> pl.Expr:
    return pl.lit(not kind.is_nested())


def _is_integer(cell: str, kind: pl.DataType) -> pl.Expr:
    if kind == pl.String:
        return pl.col(cell).str.strip_chars().str.contains(r"^[+-]?[0-9]+$")
    number = _number(cell, kind)
    return number == number.floor()


def _is_number(cell: str, kind: pl.DataType) -> pl.Expr:
    return _number(cell, kind).is_not_null()


def _is_boolean(cell: str, kind: pl.DataType) -> pl.Expr:
    if kind == pl.String:
        return pl.col(cell).str.strip_chars().str.to_lowercase().is_in(["true", "false"])
    return pl.lit(kind == pl.Boolean)


def _is_datetime(cell: str, kind: pl.DataType) -> pl.Expr:
    if kind == pl.String:
        text = pl.col(cell).str.strip_chars()
        return text.str.contains(_DATETIME) & text.str.head(10).str.to_date("%Y-%m-%d", strict=False).is_not_null()
    return pl.lit(kind == pl.Date or kind == pl.Datetime)


_TYPES: dict[str, Callable[[str, pl.DataType], pl.Expr]] = {
    "string": _is_string,
    "integer": _is_integer,
    "number": _is_number,
    "boolean": _is_boolean,
    "datetime": _is_datetime,
}


def _conversation_problems(cells: pl.Series) -> pl.Series:
    found: list[str | None] = []
    for start in range(0, cells.len(), _CONVERSATIONS):
        found += [conversation(cell)[1] for cell in cells.slice(start, _CONVERSATIONS).to_list()]
    return pl.Series(cells.name, found, dtype=pl.String)
