"""Validation: what each check finds, and what becomes of the rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llm_platform.data.validate import CheckResult, ValidationReport, validate
from llm_platform.errors import DatasetError
from llm_platform.specs import ValidationConfig, ValidationRules

Table = Callable[..., Path]


def config(on_error: Any = "fail", **rules: Any) -> ValidationConfig:
    return ValidationConfig(rules=ValidationRules(**rules), on_error=on_error)


def check(report: ValidationReport, name: str) -> CheckResult:
    return next(check for check in report.checks if check.name == name)


def test_sound_table(table: Table, tmp_path: Path, qa_rows: list[dict[str, str]]) -> None:
    report = validate(table(qa_rows), config(required_columns=["question", "answer"]), tmp_path / "out.parquet")
    assert report.passed
    assert (report.rows_in, report.rows_out) == (len(qa_rows), len(qa_rows))
    assert [(item.name, item.passed, item.failures) for item in report.checks] == [
        ("schema", True, 0),
        ("nulls", True, 0),
        ("duplicates", True, 0),
    ]
    report.raise_if_failed()
    assert not (tmp_path / "out.parquet").exists()


def test_missing_columns_are_named(table: Table) -> None:
    report = validate(table({"a": ["x"]}), config(required_columns=["a", "b", "c"]), None)
    found = check(report, "schema")
    assert (found.passed, found.failures, found.severity) == (False, 2, "ERROR")
    assert "'b'" in found.message
    assert "the columns are a" in found.message
    with pytest.raises(DatasetError) as caught:
        report.raise_if_failed()
    assert [error["column"] for error in caught.value.metadata["errors"]] == ["b", "c"]


@pytest.mark.parametrize("cells", [[None, None], ["", " \n"]])
def test_wholly_empty_column(table: Table, cells: list[Any]) -> None:
    path = table({"a": ["x", "y"], "b": cells})
    for share, passed in ((0.0, False), (0.99, False), (1.0, True)):
        report = validate(path, config(max_null_share=share), None)
        assert check(report, "schema").passed == passed
        assert report.passed == passed


def test_nulls_and_blanks_by_share(table: Table) -> None:
    path = table({"a": ["x", None, "  ", "y"], "n": [1, None, 3, 4]})
    found = check(validate(path, config(), None), "nulls")
    assert (found.passed, found.failures) == (False, 3)
    assert [(item.column, item.row, item.value) for item in found.examples] == [("a", 2, None), ("a", 3, "  "), ("n", 2, None)]
    assert [item.column for item in check(validate(path, config(max_null_share=0.25), None), "nulls").examples] == ["a", "a"]
    assert check(validate(path, config(max_null_share=0.5), None), "nulls").passed


def test_duplicates_by_share(table: Table) -> None:
    path = table({"a": ["x", "y", "x", "x"], "b": [1, 1, 1, 2]})
    assert check(validate(path, config(), None), "duplicates").passed
    assert check(validate(path, config(max_duplicate_share=0.25), None), "duplicates").passed
    found = check(validate(path, config(max_duplicate_share=0.2), None), "duplicates")
    assert (found.passed, found.failures) == (False, 1)
    assert [item.model_dump() for item in found.examples] == [{"rule": "duplicates", "column": None, "row": 3, "value": "repeats row 1"}]


def test_drop_writes_the_other_rows(table: Table, tmp_path: Path) -> None:
    path = table({"a": ["x", None, "x", "y", " "], "b": ["1", "2", "1", None, "3"]})
    out = tmp_path / "out.parquet"
    report = validate(path, config("drop", max_null_share=0.3, max_duplicate_share=0.0), out)
    assert pq.read_table(out).to_pylist() == [{"a": "x", "b": "1"}, {"a": "y", "b": None}]
    assert (report.rows_in, report.rows_out, report.passed) == (5, 2, True)
    assert [(item.passed, item.severity) for item in report.checks] == [(True, "ERROR"), (False, "WARN"), (False, "WARN")]
    report.raise_if_failed()


def test_drop_cannot_leave_nothing_nor_mend_the_schema(table: Table, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    nothing = validate(table({"a": ["x", None], "b": [None, "y"]}), config("drop"), out)
    assert (nothing.rows_out, nothing.passed) == (0, False)
    schema = validate(table({"a": ["x", None], "b": [None, None]}), config("drop"), out)
    assert (schema.rows_out, schema.passed) == (1, False)
    missing = validate(table({"a": ["x"]}), config("drop", required_columns=["b"]), out)
    assert not missing.passed


def test_warn_keeps_everything(table: Table, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    report = validate(table({"a": ["x", None, "x"]}), config("warn", required_columns=["b"], max_duplicate_share=0.0), out)
    assert (report.rows_out, report.passed) == (3, True)
    assert [(item.passed, item.severity) for item in report.checks] == [(False, "WARN")] * 3
    assert not out.exists()
    report.raise_if_failed()


def test_many_batches_and_examples_are_capped(table: Table, tmp_path: Path) -> None:
    rows = 150_000
    path = table({"n": list(range(rows)), "a": [None if number % 3 == 1 else str(number % 50_000) for number in range(rows)]})
    report = validate(path, config("drop"), tmp_path / "out.parquet")
    found = check(report, "nulls")
    assert found.failures == rows // 3
    assert [item.row for item in found.examples] == [number + 1 for number in range(1, 30, 3)]
    kept = pq.read_table(tmp_path / "out.parquet")
    assert kept.num_rows == report.rows_out == rows - rows // 3
    assert kept["n"].to_pylist() == [number for number in range(rows) if number % 3 != 1]


@pytest.mark.parametrize("name", ["*", "^.*$", "c1", "repeated", "a.b"])
def test_column_names_are_never_patterns(table: Table, name: str) -> None:
    report = validate(table({"other": ["x", "y"], name: ["a", None]}), config(required_columns=[name]), None)
    assert check(report, "schema").passed
    assert [item.column for item in check(report, "nulls").examples] == [name]


def test_nested_and_typed_columns(table: Table) -> None:
    rows = [{"l": [1], "s": {"k": "v"}, "f": 1.5, "b": True}, {"l": None, "s": {"k": "w"}, "f": float("nan"), "b": False}]
    report = validate(table([*rows, rows[0]]), config(max_duplicate_share=0.0), None)
    assert check(report, "schema").passed
    assert check(report, "nulls").failures == 1
    assert check(report, "duplicates").failures == 1


def test_markdown_holds_back_markup(table: Table) -> None:
    text = validate(table({"a|b": ["x", "<img>"], "n": [None, 1]}), config(required_columns=["<script>"]), None).to_markdown()
    assert "| nulls | failed | 1 |" in text
    assert "<script>" not in text
    assert "**2** rows in" in text


def test_unreadable_table(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError) as caught:
        validate(tmp_path / "x.parquet", config(), None)
    assert str(tmp_path) not in caught.value.message
