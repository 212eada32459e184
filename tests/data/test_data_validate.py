"""Validation: what each check finds, and what becomes of the rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_platform.data.validate import BATCH_ROWS, validate
from llm_platform.data.validation_report import MOST_VIOLATIONS, CheckResult, ValidationReport
from llm_platform.errors import DatasetError, InvalidConfig
from llm_platform.specs import ValidationConfig, ValidationRules
from llm_platform.specs.agents import ColumnRule

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
        ("rules", True, 0),
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
    assert [(item.column, item.row, item.value) for item in found.examples] == [("a", 2, None), ("n", 2, None), ("a", 3, "  ")]
    assert [item.column for item in check(validate(path, config(max_null_share=0.25), None), "nulls").examples] == ["a", "a"]
    assert check(validate(path, config(max_null_share=0.5), None), "nulls").passed


def test_duplicates_by_share(table: Table) -> None:
    path = table({"a": ["x", "y", "x", "x"], "b": [1, 1, 1, 2]})
    assert check(validate(path, config(), None), "duplicates").passed
    assert check(validate(path, config(max_duplicate_share=0.25), None), "duplicates").passed
    found = check(validate(path, config(max_duplicate_share=0.2), None), "duplicates")
    assert (found.passed, found.failures) == (False, 1)
    assert [item.model_dump() for item in found.examples] == [{"rule": "duplicates", "column": None, "row": 3, "value": "repeats row 1"}]


def test_drop_writes_the_other_rows_and_accounts_for_each(table: Table, tmp_path: Path) -> None:
    path = table({"a": ["x", None, "x", "y", " "], "b": ["1", None, "1", None, "3"]})
    out = tmp_path / "out.parquet"
    report = validate(path, config("drop", max_null_share=0.5, max_duplicate_share=0.0), out)
    assert pq.read_table(out)["a"].to_pylist() == ["x", None, "y", " "]
    assert (report.rows_in, report.rows_out, report.passed) == (5, 4, True)
    assert not out.with_name("out.parquet.part").exists()
    report = validate(path, config("drop", max_null_share=0.3, max_duplicate_share=0.0), out)
    assert pq.read_table(out).to_pylist() == [{"a": "x", "b": "1"}]
    assert [(item.passed, item.severity) for item in report.checks] == [(True, "WARN"), (True, "WARN"), (False, "WARN"), (False, "WARN")]
    # Row 2 is empty in both columns and goes for the first.
    assert [(count.rule, count.column, count.violations, count.rows_dropped) for count in report.dropped()] == [
        ("nulls", "a", 2, 2),
        ("nulls", "b", 2, 1),
        ("duplicates", None, 1, 1),
    ]
    report.raise_if_failed()


def test_a_share_is_of_the_rows_that_are_left(table: Table, tmp_path: Path) -> None:
    """Of b a fifth is empty, as is allowed; without the rows that a's rule drops it is a third."""
    path = table({"a": ["x", "y", "z", "?", "?"], "b": ["1", "2", None, "3", "4"]})
    rules = {"max_null_share": 0.2, "columns": [ColumnRule(column="a", pattern="[a-z]")]}
    out = tmp_path / "out.parquet"
    assert check(validate(path, config(**rules), None), "nulls").passed
    report = validate(path, config("drop", **rules), out)
    assert pq.read_table(out)["a"].to_pylist() == ["x", "y"]
    assert [(count.rule, count.rows_dropped) for count in report.dropped()] == [("pattern", 2), ("nulls", 1)]
    repeats = {"max_duplicate_share": 0.2, "columns": [ColumnRule(column="a", pattern="[a-z]")]}
    report = validate(table({"a": ["x", "x", "z", "?", "!"]}), config("drop", **repeats), out)
    assert pq.read_table(out)["a"].to_pylist() == ["x", "z"]
    assert [(count.rule, count.rows_dropped) for count in report.dropped()] == [("pattern", 2), ("duplicates", 1)]


def test_drop_cannot_leave_nothing_nor_mend_the_schema(table: Table, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    nothing = validate(table({"a": ["x", None], "b": [None, "y"]}), config("drop"), out)
    assert (nothing.rows_out, nothing.passed) == (0, False)
    with pytest.raises(DatasetError, match="none of the 2 rows is left") as caught:
        nothing.raise_if_failed()
    assert [count["rows_dropped"] for count in caught.value.metadata["counts"]] == [1, 1]
    assert [error["row"] for error in caught.value.metadata["errors"]] == [1, 2]
    schema = validate(table({"a": ["x", None], "b": [None, None]}), config("drop"), out)
    assert (schema.rows_out, schema.passed) == (1, False)
    missing = validate(table({"a": ["x"]}), config("drop", required_columns=["b"]), out)
    assert not missing.passed


def test_warn_keeps_everything(table: Table, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    report = validate(table({"a": ["x", None, "x"]}), config("warn", required_columns=["b"], max_duplicate_share=0.0), out)
    assert (report.rows_out, report.passed) == (3, True)
    assert [(item.passed, item.severity) for item in report.checks] == [
        (False, "WARN"),
        (True, "WARN"),
        (False, "WARN"),
        (False, "WARN"),
    ]
    assert not out.exists()
    report.raise_if_failed()


def test_rows_are_counted_across_batches_and_row_groups(table: Table, tmp_path: Path) -> None:
    rows, group = 150_000, 70_000
    cells = [None if number % 3 == 1 else str(number % 50_000) for number in range(rows)]
    path = table({"n": list(range(rows)), "a": cells})
    pq.write_table(pq.read_table(path), path, row_group_size=group)
    report = validate(path, config("drop"), tmp_path / "out.parquet", tmp_path)
    found = check(report, "nulls")
    assert found.failures == rows // 3
    assert [item.row for item in found.examples] == [number + 1 for number in range(1, 30, 3)]
    assert pq.read_table(tmp_path / "violations.parquet")["row"].to_pylist() == list(range(2, rows + 1, 3))
    kept = pq.read_table(tmp_path / "out.parquet")
    assert kept.num_rows == report.rows_out == rows - rows // 3
    assert kept["n"].to_pylist() == [number for number in range(rows) if number % 3 != 1]
    near, far = BATCH_ROWS, group + BATCH_ROWS
    for number in (near - 1, near, group - 1, group, far - 1, far, rows - 1):
        texts = ["x" if row == number else f"y{row}" for row in range(rows)]
        path = table({"a": texts, "n": [0 if row == number else row for row in range(rows)]})
        pq.write_table(pq.read_table(path), path, row_group_size=group)
        rules = config(columns=[ColumnRule(column="a", pattern="y"), ColumnRule(column="n", unique=True)])
        assert [(item.rule, item.row, item.value) for item in check(validate(path, rules), "rules").examples] == [
            ("pattern", number + 1, "x"),
            ("unique", number + 1, "0"),
        ]


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


CHAT = [
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
    [{"role": "user", "content": "hi"}],
    [{"role": "user", "content": "hi"}, {"role": "robot", "content": "hello"}],
    [],
    [{"role": "user", "content": "hi"}, {"role": "user", "content": "hi?"}, {"role": "assistant", "content": "hello"}],
]


@pytest.mark.parametrize("as_json", [False, True])
def test_conversations_must_be_usable(table: Table, tmp_path: Path, as_json: bool) -> None:
    path = table({"messages": [json.dumps(cell) for cell in CHAT] if as_json else CHAT})
    report = validate(path, config("drop"), tmp_path / "out.parquet")
    assert report.layout == "messages"
    found = check(report, "schema")
    assert (found.severity, found.failures, report.rows_out) == ("WARN", 4, 1)
    assert [(item.rule, item.row) for item in found.examples] == [("conversation", row) for row in (2, 3, 4, 5)]
    values = [str(item.value) for item in found.examples]
    assert values[0] == "no answer of the assistant"
    assert values[1].startswith("turn 2 has no known role")
    assert values[3] == "turns 1 and 2 are both by the user"
    failed = validate(path, config(), None)
    assert (check(failed, "schema").severity, failed.passed) == ("ERROR", False)
    assert "'messages' breaks conversation in 4 rows" in check(failed, "schema").message


def test_columns_have_the_types_that_the_layout_needs(table: Table) -> None:
    found = check(validate(table({"messages": [3, 4]}), config("drop"), None), "schema")
    assert [(item.rule, item.column, item.value) for item in found.examples] == [("layout", "messages", "Int64")]
    assert found.severity == "ERROR"
    nested = validate(table({"question": ["a", "b"], "answer": [["x"], ["y"]], "other": [["x"], ["y"]]}), config("drop"), None)
    assert [(item.rule, item.column) for item in check(nested, "schema").examples] == [("layout", "answer")]
    scalars = validate(table({"question": ["a", "b"], "answer": [1, 2]}), config(), None)
    assert (scalars.layout, scalars.passed) == ("question_answer", True)


def test_answers_are_never_wholly_empty(table: Table) -> None:
    """Also where every share of empty cells is allowed, and where they are empty only in the rows that are left."""
    rules: dict[str, Any] = {"max_null_share": 1.0}
    found = check(validate(table({"question": ["a", "b"], "answer": [None, ""]}), config(**rules), None), "schema")
    assert [(item.rule, item.column) for item in found.examples] == [("empty_column", "answer")]
    path = table({"question": ["a", "b", "?"], "answer": [None, "", "x"]})
    assert validate(path, config(**rules), None).passed
    left = validate(path, config("drop", **rules, columns=[ColumnRule(column="question", pattern="[a-z]")]), None)
    assert (left.rows_out, left.passed) == (0, False)


def test_the_files_have_every_violation(table: Table, tmp_path: Path) -> None:
    path = table({"a": ["x" * 300, "y", None], "b": [1, 50, 2]})
    rules = [ColumnRule(column="a", max_length=10), ColumnRule(column="b", max=10), ColumnRule(column="c")]
    report = validate(path, config(columns=rules), None, tmp_path)
    assert pq.read_table(tmp_path / "violations.parquet").to_pylist() == [
        {"rule": "missing_column", "column": "c", "row": None, "value": None},
        {"rule": "max_length", "column": "a", "row": 1, "value": "x" * 199 + "…"},
        {"rule": "max", "column": "b", "row": 2, "value": "50"},
        {"rule": "nulls", "column": "a", "row": 3, "value": None},
    ]
    assert (report.violations, report.violations_stored) == (4, 4)
    assert ValidationReport.model_validate_json((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "report.md").read_text() == report.to_markdown()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["report.json", "report.md", "table.parquet", "violations.parquet"]


def test_violations_beyond_the_cap_are_counted(table: Table, tmp_path: Path) -> None:
    rows = MOST_VIOLATIONS // 2 + 1_000
    path = table(pa.table({"n": pa.array(range(rows)), "m": pa.array(range(rows))}))
    rules = [ColumnRule(column="n", max=-1), ColumnRule(column="m", allowed=["5"])]
    report = validate(path, config("warn", columns=rules), None, tmp_path)
    assert (report.violations, report.violations_stored) == (2 * rows - 1, MOST_VIOLATIONS)
    stored = pq.read_table(tmp_path / "violations.parquet", columns=["row"])["row"]
    assert (stored.length(), stored[-1].as_py()) == (MOST_VIOLATIONS, MOST_VIOLATIONS // 2 + 1)
    assert f"the first {MOST_VIOLATIONS:,}; 1,999 more" in report.to_markdown()
    assert [(item.rule, item.row) for item in check(report, "rules").examples[:3]] == [("max", 1), ("allowed", 1), ("max", 2)]


def test_rules_that_can_be_none_are_refused_before_reading(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as caught:
        validate(tmp_path / "none.parquet", config(columns=[ColumnRule(column="a", pattern="(")]))
    assert caught.value.metadata["errors"][0]["field"] == "rules.columns.0.pattern"


RULES = st.builds(
    ValidationRules,
    max_null_share=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    max_duplicate_share=st.sampled_from([0.0, 0.3, 1.0]),
    columns=st.lists(
        st.builds(
            ColumnRule,
            column=st.sampled_from(["question", "answer", "n"]),
            type=st.sampled_from([None, "integer", "number", "string"]),
            min=st.sampled_from([None, 1.0]),
            pattern=st.sampled_from([None, "[0-9]"]),
            max_length=st.sampled_from([None, 2]),
            max_null_share=st.sampled_from([None, 0.4]),
            unique=st.booleans(),
        ),
        max_size=2,
    ),
)
TEXTS = st.one_of(st.none(), st.sampled_from(["", " ", "1", "2", "12", "a", "abc", "7.5"]))
ROWS = st.lists(
    st.fixed_dictionaries({"question": TEXTS, "answer": TEXTS, "n": st.one_of(st.none(), st.integers(0, 3))}), min_size=1, max_size=12
)


@given(rows=ROWS, rules=RULES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_drop_leaves_fulfils_the_rules(tmp_path: Path, rows: list[dict[str, Any]], rules: ValidationRules) -> None:
    path, out = tmp_path / "rows.parquet", tmp_path / "out.parquet"
    out.unlink(missing_ok=True)
    kinds = pa.schema([("question", pa.string()), ("answer", pa.string()), ("n", pa.int64())])
    pq.write_table(pa.Table.from_pylist(rows, kinds), path)
    report = validate(path, ValidationConfig(rules=rules, on_error="drop"), out)
    assert sum(count.rows_dropped for count in report.dropped()) == report.rows_in - report.rows_out
    assert out.exists() == (0 < report.rows_out < report.rows_in)
    if report.passed:
        again = validate(out if out.exists() else path, ValidationConfig(rules=rules, on_error="fail"))
        assert again.passed, again.to_markdown()
        assert (again.rows_in, again.violations) == (report.rows_out, 0)
    if validate(path, ValidationConfig(rules=rules, on_error="fail")).passed:
        assert report.rows_out == report.rows_in


def test_markdown_holds_back_markup(table: Table) -> None:
    text = validate(table({"a|b": ["x", "<img>"], "n": [None, 1]}), config(required_columns=["<script>"]), None).to_markdown()
    assert "| nulls | failed | 1 |" in text
    assert "<script>" not in text
    picture = validate(table({"a": ["![x](http://x)", None]}), config(columns=[ColumnRule(column="a", type="integer")]))
    assert "http://x" in picture.to_markdown()
    assert "![" not in picture.to_markdown()
    assert "**2** rows in" in text


def test_unreadable_table(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError) as caught:
        validate(tmp_path / "x.parquet", config(), None)
    assert str(tmp_path) not in caught.value.message
