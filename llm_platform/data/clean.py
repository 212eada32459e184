"""Cleaning of text columns, vectorised, each rule switchable, with a count of what it changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from llm_platform.specs import CleanConfig

Expression = Callable[[pl.Expr], pl.Expr]

_LINE_ENDS = r"\r\n?|\u{2028}|\u{2029}|\u{85}"
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u{feff}\u{fffe}\u{ffff}]"
_BLANK_LINES = r"\n(?:[ \t]*\n){2,}"
_MARKUP = r"<[A-Za-z!/][^>]*>|&(?:#\d+|#[xX][0-9A-Fa-f]+|[A-Za-z][A-Za-z0-9]*);"
"""What makes a text worth parsing as HTML: a tag, or a character reference."""
_BLOCKS = "address,article,aside,blockquote,dd,div,dl,dt,footer,form,h1,h2,h3,h4,h5,h6,header,li,main,nav,ol,p,pre,section,table,tr,ul"


def clean_cells(frame: pl.DataFrame, columns: Sequence[str], rules: CleanConfig) -> tuple[pl.DataFrame, dict[str, int]]:
    """The frame with its text columns cleaned, and per rule the number of cells changed.

    `html` (markup becomes its text), `unicode` (normal form), `line_ends` (all "\\n"), `control_characters`, `blank_lines` (runs
    of them), `whitespace` (at the ends). Inner newlines, one blank line, and indentation stay.
    """
    counts: dict[str, int] = {}
    for rule, (matches, change) in _rules(rules).items():
        counts[rule] = 0
        for column in columns:
            new = changed_where(frame[column], matches, change)
            counts[rule] += int((frame[column] != new).sum())
            frame = frame.with_columns(new)
    return frame, counts


def changed_where(cells: pl.Series, matches: Expression, change: Expression) -> pl.Series:
    """The cells with `change` applied to those that `matches` finds: looking is much cheaper than rewriting, and few need it."""
    name = cells.name
    found = cells.to_frame().select(matches(pl.col(name)))[name].fill_null(False)
    if not found.any():
        return cells
    new = cells.filter(found).to_frame().select(change(pl.col(name)))[name]
    return new if found.all() else cells.scatter(found.arg_true(), new)


def not_ascii(text: pl.Expr) -> pl.Expr:
    return text.str.len_bytes() != text.str.len_chars()


def _rules(rules: CleanConfig) -> dict[str, tuple[Expression, Expression]]:
    """By rule: which cells it may change, and what it makes of a cell. In the order in which they are applied."""
    found: dict[str, tuple[Expression, Expression]] = {}
    if rules.html:
        found["html"] = lambda text: text.str.contains(_MARKUP), _without_markup
    if rules.unicode != "off":
        form = rules.unicode
        found["unicode"] = not_ascii, lambda text: text.str.normalize(form)
    if rules.whitespace:
        found["line_ends"] = _replacing(_LINE_ENDS, "\n")
    if rules.control_characters:
        found["control_characters"] = _replacing(_CONTROL, "")
    if rules.whitespace:
        found["blank_lines"] = _replacing(_BLANK_LINES, "\n\n")
        found["whitespace"] = (
            lambda text: text.str.strip_chars().str.len_bytes() != text.str.len_bytes(),
            lambda text: text.str.strip_chars(),
        )
    return found


def _padded(text: pl.Expr) -> pl.Expr:
    return text.str.strip_chars().str.len_bytes() != text.str.len_bytes()


def _replacing(pattern: str, new: str) -> tuple[Expression, Expression]:
    return lambda text: text.str.contains(pattern), lambda text: text.str.replace_all(pattern, new)


def _without_markup(text: pl.Expr) -> pl.Expr:
    parsed = text.map_elements(html_text, return_dtype=pl.String)
    return pl.when(text.str.contains(_MARKUP)).then(parsed).otherwise(text)


def html_text(html: str) -> str:
    """What a reader sees of an HTML text: no tags, scripts or styles, character references resolved, a line per block."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(html)
    tree.strip_tags(["script", "style", "template", "noscript"])
    for node in tree.css("br"):
        node.replace_with("\n")
    for node in tree.css(_BLOCKS):
        node.insert_after("\n")
    return tree.body.text() if tree.body else ""


def full_rows(frame: pl.DataFrame, needed: Sequence[str], answer: str, rules: CleanConfig) -> pl.Series:
    """Which rows are kept: those with something in each needed column, and an answer of `min_characters` at least."""
    cells = [pl.col(column).fill_null("").str.strip_chars() != "" for column in needed] if rules.empty_rows else []
    long_enough = pl.col(answer).fill_null("").str.len_chars() >= rules.min_characters
    return frame.select(keep=pl.all_horizontal(pl.repeat(True, pl.len()), *cells, long_enough))["keep"]
