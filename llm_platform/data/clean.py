"""Cleaning of text columns, vectorised, with a count of what each rule changed."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

_RULES: dict[str, tuple[tuple[str, str], ...]] = {
    "line_ends": ((r"\r\n?|\u{2028}|\u{2029}|\u{85}", "\n"),),
    "control_characters": ((r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u{feff}\u{fffe}\u{ffff}]", ""),),
    "blank_lines": ((r"\n(?:[ \t]*\n){2,}", "\n\n"),),
}
"""Patterns and what replaces them. Inner newlines, one blank line, and indentation stay."""


def clean(frame: pl.DataFrame, needed: Sequence[str], optional: Sequence[str] = ()) -> tuple[pl.DataFrame, dict[str, int]]:
    """Cleans the text columns and drops rows in which a needed one is empty.

    Returns the frame, and per rule the number of cells changed: `unicode` (NFC), `line_ends`, `control_characters`,
    `blank_lines` (runs of them), `whitespace` (at the ends); `empty_rows` is the number of rows dropped.
    """
    counts: dict[str, int] = {}
    columns = [*needed, *optional]
    steps = {"unicode": {column: pl.col(column).str.normalize("NFC") for column in columns}}
    for rule, replacements in _RULES.items():
        steps[rule] = {column: _replaced(column, replacements) for column in columns}
    steps["whitespace"] = {column: pl.col(column).str.strip_chars() for column in columns}
    for rule, step in steps.items():
        changed = frame.select(pl.sum_horizontal((pl.col(column) != new).sum() for column, new in step.items())).item()
        counts[rule] = int(changed or 0)
        if counts[rule]:
            frame = frame.with_columns(**step)
    kept = frame.filter(~pl.any_horizontal(pl.col(column).is_null() | (pl.col(column) == "") for column in needed))
    counts["empty_rows"] = frame.height - kept.height
    return kept, counts


def _replaced(column: str, replacements: Sequence[tuple[str, str]]) -> pl.Expr:
    text = pl.col(column)
    for pattern, new in replacements:
        text = text.str.replace_all(pattern, new)
    return text
