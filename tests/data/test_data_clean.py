"""Cleaning: what each rule changes, and which rows go."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_platform.data.clean import clean_cells, full_rows, html_text
from llm_platform.specs import CleanConfig
from llm_platform.specs.agents import NO_CLEANING

ALL = CleanConfig(html=True)


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("e\u0301", "é", "unicode"),
        ("a\x00b\x07\x1b\x7f\x85c\ufeff", "ab\nc", "control_characters"),
        ("a\r\nb\rc", "a\nb\nc", "line_ends"),
        ("a\n\n\n\n\nb", "a\n\nb", "blank_lines"),
        ("a\n \n\t\n  b", "a\n\n  b", "blank_lines"),
        (" \n a \n", "a", "whitespace"),
        ("def f():\n    return 1\n\nf()", "def f():\n    return 1\n\nf()", None),
        ("a\tb  c", "a\tb  c", None),
        ("日本\u200d語 👩\u200d🚀", "日本\u200d語 👩\u200d🚀", None),
        ("<p>Caf&eacute;</p>", "<p>Caf&eacute;</p>", None),
    ],
)
def test_cleaning_rules(before: str, after: str, rule: str | None) -> None:
    frame, counts = clean_cells(pl.DataFrame({"a": [before, "fine"]}), ["a"], CleanConfig())
    assert frame["a"].to_list() == [after, "fine"]
    assert (counts[rule] == 1) if rule else not any(counts.values())
    untouched, counts = clean_cells(pl.DataFrame({"a": [before]}), ["a"], NO_CLEANING)
    assert untouched["a"].to_list() == [before]
    assert counts == {}


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Caf&eacute; &amp; bar</p><p>two</p>", "Café & bar\ntwo"),
        ("one<br>two<script>alert(1)</script><style>p {}</style>", "one\ntwo"),
        ("<b>bold</b> and <i>more</i>", "bold and more"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("R&D at AT&T", "R&D at AT&T"),
    ],
)
def test_html_becomes_what_a_reader_sees(html: str, text: str) -> None:
    frame, counts = clean_cells(pl.DataFrame({"a": [html, None]}), ["a"], ALL)
    assert frame["a"].to_list() == [text, None]
    assert counts["html"] == (html != text)
    assert html_text("") == ""


def test_unicode_forms() -> None:
    frame = pl.DataFrame({"a": ["ﬁne ①", "e\u0301"]})
    assert clean_cells(frame, ["a"], CleanConfig(unicode="NFKC"))[0]["a"].to_list() == ["fine 1", "é"]
    assert clean_cells(frame, ["a"], CleanConfig())[0]["a"].to_list() == ["ﬁne ①", "é"]
    assert clean_cells(frame, ["a"], CleanConfig(unicode="off"))[0].equals(frame)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=20))
def test_cleaning_twice_changes_nothing_more(texts: list[str]) -> None:
    once, _ = clean_cells(pl.DataFrame({"a": texts}), ["a"], CleanConfig())
    again, counts = clean_cells(once, ["a"], CleanConfig())
    assert again.equals(once)
    assert not any(counts.values())


def test_rows_without_what_is_needed() -> None:
    frame = pl.DataFrame({"a": ["x", None, " ", "y"], "b": [None, "1", "2", "long enough"]})
    assert full_rows(frame, ["a"], "a", CleanConfig()).to_list() == [True, False, False, True]
    assert full_rows(frame, ["a"], "b", CleanConfig(min_characters=5)).to_list() == [False, False, False, True]
    assert full_rows(frame, ["a"], "a", NO_CLEANING).to_list() == [True] * 4
