"""The column rules: what satisfies each, what it does in each mode, and what is refused as no rule."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_platform.data.read import to_parquet
from llm_platform.data.rules import check_rules
from llm_platform.data.validate import validate
from llm_platform.errors import DatasetError, InvalidConfig
from llm_platform.specs import ValidationConfig, ValidationRules
from llm_platform.specs.agents import ColumnRule

Table = Callable[..., Path]
DAY = datetime.date(2024, 2, 29)
SOUND, BROKEN, EMPTY = [1, 4], [2, 5], [3, 6]


def broken_rows(path: Path, on_error: Any = "fail", **rule: Any) -> list[int | None]:
    rules = ValidationRules(max_null_share=1.0, columns=[ColumnRule(column="a", **rule)])
    report = validate(path, ValidationConfig(rules=rules, on_error=on_error))
    (check,) = [check for check in report.checks if check.name == "rules"]
    assert check.failures == len(check.examples)
    assert {item.rule for item in check.examples} <= set(rule)
    return [item.row for item in check.examples]


RULES: list[tuple[dict[str, Any], Any, Any]] = [
    ({"type": "integer"}, "12", "1.5"),
    ({"type": "number"}, "-1.5", "one"),
    ({"type": "boolean"}, "True", "yes"),
    ({"type": "datetime"}, "2024-02-29", "2024-02-30"),
    ({"type": "string"}, {"not a list": "but"}, None),
    ({"min": 3}, 3, 2.5),
    ({"max": 3}, "3", "3.1"),
    ({"pattern": r"^[a-z]+\?$"}, "why?", "Why?"),
    ({"allowed": ["yes", "no"]}, "no", "No"),
    ({"allowed": ["1", "2.5"]}, 1.0, 2.0),
    ({"min_length": 2}, "éà", "é"),
    ({"max_length": 2}, "éà", "éàü"),
    ({"max_length": 2}, 12, 123),
]


@pytest.mark.parametrize(("rule", "sound", "broken"), [case for case in RULES if case[2] is not None])
def test_each_rule_in_each_mode(table: Table, tmp_path: Path, rule: dict[str, Any], sound: Any, broken: Any) -> None:
    empty = "  " if isinstance(sound, str) else None
    path = table({"a": [sound, broken, empty] * 2, "row": [1, 2, 3, 4, 5, 6]})
    out = tmp_path / "out.parquet"
    config = {"max_null_share": 0.5, "columns": [ColumnRule(column="a", max_null_share=1.0, **rule)]}
    modes: list[tuple[Any, str, bool]] = [("fail", "ERROR", False), ("drop", "WARN", True), ("warn", "WARN", True)]
    for on_error, severity, passed in modes:
        report = validate(path, ValidationConfig(rules=ValidationRules(**config), on_error=on_error), out)
        (check,) = [check for check in report.checks if check.name == "rules"]
        assert (check.passed, check.severity, report.passed) == (False, severity, passed)
        assert [(item.rule, item.column, item.row) for item in check.examples] == [(next(iter(rule)), "a", row) for row in BROKEN]
        assert out.exists() == (on_error == "drop")
        if on_error == "drop":
            assert sorted(pq.read_table(out)["row"].to_pylist()) == sorted(SOUND + EMPTY)
            assert (report.rows_out, [count.rows_dropped for count in check.counts]) == (4, [2])
            out.unlink()
        if on_error == "fail":
            with pytest.raises(DatasetError) as caught:
                report.raise_if_failed()
            assert [(error["rule"], error["column"], error["row"]) for error in caught.value.metadata["errors"]] == [
                (next(iter(rule)), "a", row) for row in BROKEN
            ]


@pytest.mark.parametrize(("on_error", "left"), [("fail", 6), ("drop", 3), ("warn", 6)])
def test_unique_in_each_mode(table: Table, tmp_path: Path, on_error: Any, left: int) -> None:
    path = table({"a": ["x", "y", "x", "X", "y", "x"], "n": [1, 2, 3, 4, 5, 6]})
    rules = ValidationRules(columns=[ColumnRule(column="a", unique=True)])
    report = validate(path, ValidationConfig(rules=rules, on_error=on_error), tmp_path / "out.parquet")
    assert report.rows_out == left
    (check,) = [check for check in report.checks if check.name == "rules"]
    assert [(item.rule, item.row, item.value) for item in check.examples] == [("unique", 3, "x"), ("unique", 5, "y"), ("unique", 6, "x")]
    if on_error == "drop":
        assert pq.read_table(tmp_path / "out.parquet")["a"].to_pylist() == ["x", "y", "X"]


def test_unique_counts_empty_cells_too(table: Table) -> None:
    assert broken_rows(table({"a": [None, 1, None, 2]}), unique=True) == [3]
    assert broken_rows(table({"a": [[1], [2], [1]]}), unique=True) == [3]


TEXTS = {
    "integer": (["0", "-3", "+7", " 12 ", "99999999999999999999999"], ["1.0", "1e3", "1 2", "x", "١"]),
    "number": (["0", "-1.5", ".5", "5.", "1e3", " 7 "], ["1,000", "nan", "inf", "1e999", "0x10", "1_000", "--1"]),
    "boolean": (["true", "FALSE", " True "], ["1", "yes", "t"]),
    "datetime": (
        ["2024-02-29", "2024-02-29T13:05", "2024-02-29 13:05:59.5+01:00", "2024-02-29T13:05:59Z", "0001-01-01"],
        ["2024-02-30", "2024-2-3", "29.02.2024", "2024-02-29T25:00", "2024-02-29T13:05+99:00", "2024-02-29x", "1709164800"],
    ),
    "string": (["x", "12"], []),
}


@pytest.mark.parametrize("kind", list(TEXTS))
def test_types_of_texts(table: Table, kind: str) -> None:
    sound, wrong = TEXTS[kind]
    assert broken_rows(table({"a": [*sound, *wrong]}), type=kind) == list(range(len(sound) + 1, len(sound) + len(wrong) + 1))


@pytest.mark.parametrize(
    ("cells", "satisfied"),
    [
        (pa.array([1, 2], pa.int8()), {"string", "integer", "number"}),
        (pa.array([1.0, 2.5]), {"string", "number"}),
        (pa.array([1.0, 2.0]), {"string", "integer", "number"}),
        (pa.array([1.0, float("nan")]), {"string"}),
        (pa.array([Decimal("1.00"), Decimal("2.00")]), {"string", "integer", "number"}),
        (pa.array([True, False]), {"string", "boolean"}),
        (pa.array([DAY, DAY]), {"string", "datetime"}),
        (pa.array([datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)] * 2), {"string", "datetime"}),
        (pa.array([datetime.time(1), datetime.time(2)]), {"string"}),
        (pa.array([["x"], ["y"]]), set()),
        (pa.array([{"x": 1}, {"x": 2}]), set()),
    ],
)
def test_types_of_columns(table: Table, cells: pa.Array, satisfied: set[str]) -> None:
    path = table({"a": cells})
    assert {kind for kind in TEXTS if not broken_rows(path, type=kind)} == satisfied


def test_a_csv_column_has_the_type_that_its_cells_read_as(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,c\n007,1,x\n012,2,3\n")
    to_parquet(tmp_path / "x.csv", "csv", tmp_path / "x.parquet", "x.csv")
    cases: list[tuple[str, Any, list[int]]] = [("a", "integer", []), ("b", "integer", []), ("b", "string", []), ("c", "integer", [1])]
    for column, kind, rows in cases:
        rules = ValidationRules(columns=[ColumnRule(column=column, type=kind)])
        report = validate(tmp_path / "x.parquet", ValidationConfig(rules=rules))
        assert [item.row for check in report.checks for item in check.examples] == rows


def test_what_is_no_number_has_no_bounds(table: Table) -> None:
    path = table({"a": ["1", "x", "inf", "5"]})
    assert broken_rows(path, min=0) == [2, 3]
    assert broken_rows(path, max=4, type="string") == [2, 3, 4]
    assert broken_rows(path, min=0, type="number") == [2, 3]  # said once, by the type
    assert broken_rows(table({"a": [DAY, DAY]}), min=0) == [1, 2]


def test_a_column_may_have_several_rules_and_its_own_share_of_nulls(table: Table) -> None:
    path = table({"a": ["x", "yy", None, "z"], "b": ["x", "y", None, "z"]})
    rules = ValidationRules(
        columns=[
            ColumnRule(column="a", max_length=1, max_null_share=0.5),
            ColumnRule(column="a", pattern="[xy]"),
            ColumnRule(column="b", max_null_share=0.2),
            ColumnRule(column="elsewhere", required=False, unique=True, pattern="x"),
        ]
    )
    report = validate(path, ValidationConfig(rules=rules))
    assert [(item.rule, item.column, item.row) for check in report.checks for item in check.examples] == [
        ("max_length", "a", 2),
        ("pattern", "a", 4),
        ("nulls", "b", 3),
    ]
    assert [check.passed for check in report.checks] == [True, False, False, True]


def rules_of(**fields: Any) -> ValidationRules:
    return ValidationRules(required_columns=fields.pop("required", []), columns=[ColumnRule(column="q"), ColumnRule(column="a", **fields)])


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"pattern": "("}, "rules.columns.1.pattern", "unclosed group"),
        ({"pattern": "(?=x)"}, "rules.columns.1.pattern", "look-around"),
        ({"pattern": "a{1000}{1000}{1000}"}, "rules.columns.1.pattern", "size limit"),
        ({"type": "datetime", "min": 1}, "rules.columns.1.min", "only numbers have bounds"),
        ({"type": "boolean", "max": 1}, "rules.columns.1.max", "only numbers have bounds"),
    ],
)
def test_what_can_be_no_rule_is_refused_with_its_field(fields: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_rules(rules_of(**fields), ["q"])
    (error,) = caught.value.metadata["errors"]
    assert error["field"] == field
    assert told in error["message"]
    assert field in caught.value.message


def test_required_columns_are_looked_for_where_the_columns_are_known() -> None:
    rules = rules_of(required=["q", "z"])
    check_rules(rules, None)
    check_rules(rules, ["a", "q", "z"])
    with pytest.raises(DatasetError) as caught:
        check_rules(rules, ["q"])
    assert [error["field"] for error in caught.value.metadata["errors"]] == ["rules.required_columns.1", "rules.columns.1.column"]
    assert "its columns are 'q'" in caught.value.message


def test_cells_of_every_type_can_be_judged_and_shown(table: Table) -> None:
    columns = {
        "integer": pa.array([1, 1], pa.uint8()),
        "decimal": pa.array([Decimal("1.5")] * 2),
        "float": pa.array([2.0, 2.0], pa.float32()),
        "date": pa.array([DAY] * 2),
        "timestamp": pa.array([datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)] * 2),
        "time": pa.array([datetime.time(1)] * 2),
        "duration": pa.array([datetime.timedelta(seconds=90)] * 2),
        "map": pa.array([[("k", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
        "fixed": pa.array([[1, 2]] * 2, pa.list_(pa.int64(), 2)),
        "structs": pa.array([[{"k": ["v"]}]] * 2),
    }
    rules = [ColumnRule(column=name, type="boolean", pattern="none", unique=True) for name in columns]
    report = validate(table(columns), ValidationConfig(rules=ValidationRules(columns=rules, max_duplicate_share=0.0)))
    (check,) = [check for check in report.checks if check.name == "rules"]
    assert {(count.column, count.rule): count.violations for count in check.counts} == {
        (name, rule): count for name in columns for rule, count in (("type", 2), ("pattern", 2), ("unique", 1))
    }
    shown = validate(table({"a": columns["duration"]}), ValidationConfig(rules=ValidationRules(columns=[ColumnRule(column="a", max=1)])))
    assert [item.value for check in shown.checks for item in check.examples] == ["90", "90"]
