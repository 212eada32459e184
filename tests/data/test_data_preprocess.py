"""Datasets to tokenized splits, as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llm_platform.data.preprocess import SCHEMA, check_mapping, funnel_png, prepare_rows, preprocess, preprocessing_key, read_report
from llm_platform.data.split import SPLITS
from llm_platform.data.tokenize import PromptTokenizer
from llm_platform.errors import Cancelled, DatasetError
from llm_platform.reporting import ListReporter
from llm_platform.specs import PreprocessingConfig, SplitConfig, TemplateMapping

Table = Callable[..., Path]
FILES = [f"{name}.parquet" for name in SPLITS]


def config(**fields: Any) -> PreprocessingConfig:
    mapping = fields.pop("mapping", TemplateMapping(instruction="question", output="answer"))
    settings: dict[str, Any] = {"max_length": 4096, **fields}
    return PreprocessingConfig(base_model="base", template_mapping=mapping, **settings)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row | {"split": name} for name in SPLITS for row in pq.read_table(out / f"{name}.parquet").to_pylist()]


def test_every_row_is_rendered_tokenized_and_on_one_side(
    table: Table, tokenizer_folder: Path, tmp_path: Path, qa_rows: list[dict[str, str]]
) -> None:
    reporter = ListReporter()
    out = tmp_path / "out"
    report = preprocess([table(qa_rows)], config(), tokenizer_folder, out, reporter)
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    found = rows_of(out)
    assert all(pq.read_schema(out / name).equals(SCHEMA) for name in FILES)
    assert sorted(row["row"] for row in found) == list(range(len(qa_rows)))
    for row in found:
        source = qa_rows[row["row"]]
        assert " ".join(source["question"].split()) in " ".join(row["prompt"].split())
        if row["row"] % 5:  # decoding all of the real rows takes seconds
            continue
        assert tokenizer.decode(row["input_ids"]) == row["prompt"] + row["completion"]
        trained = [token for token, train in zip(row["input_ids"], row["loss_mask"], strict=True) if train]
        assert tokenizer.decode(trained) == row["completion"]
        assert trained[-1] == tokenizer.eos_id
        assert row["loss_mask"].index(True) == len(tokenizer.encode_prompts([row["prompt"]])[0])
    assert report.splits == {name: sum(row["split"] == name for row in found) for name in SPLITS}
    assert report.tokens == {name: sum(len(row["input_ids"]) for row in found if row["split"] == name) for name in SPLITS}
    assert report.trainable_tokens == sum(sum(row["loss_mask"]) for row in found)
    assert report.max_length == max(len(row["input_ids"]) for row in found)
    assert report.mean_length == round(sum(report.tokens.values()) / len(found), 2)
    assert list(report.funnel) == ["in", "cleaned", "deduplicated", "fitting", *SPLITS]
    assert read_report(out) == report
    assert any(f"{len(qa_rows):,} rows in" in message for _, message, _ in reporter.lines)
    assert [data["done"] for level, _, data in reporter.lines if level == "PROGRESS"][-1] == len(qa_rows)
    assert funnel_png(report).startswith(b"\x89PNG")


def test_no_prompt_is_on_two_sides(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    rows = [{"question": f"Question {number % 30}?" + " " * (number % 2), "answer": f"Answer {number}"} for number in range(300)]
    preprocess([table(rows)], config(), tokenizer_folder, tmp_path / "out", ListReporter())
    sides: dict[str, set[str]] = {}
    for row in rows_of(tmp_path / "out"):
        sides.setdefault(row["prompt"].lower(), set()).add(row["split"])
    assert len(sides) == 30
    assert all(len(side) == 1 for side in sides.values())


def test_same_inputs_same_bytes(
    table: Table, tokenizer_folder: Path, tmp_path: Path, problems: Callable[[int], list[dict[str, str]]]
) -> None:
    path = table(problems(500))
    one, two, other = (
        preprocess([path], config(seed=seed), tokenizer_folder, tmp_path / name, ListReporter())
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    for name in [*FILES, "preprocessing.json"]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert one == two
    assert one.digest != other.digest
    assert one.digest == preprocessing_key([path], config(seed=1), tokenizer_folder)
    assert (tmp_path / "one" / FILES[0]).read_bytes() != (tmp_path / "other" / FILES[0]).read_bytes()


def test_tables_are_concatenated_cleaned_and_deduplicated(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    first = table(
        [{"question": f" q{n}\x07", "answer": f"a{n}", "more": n} for n in range(6)] + [{"question": "x", "answer": None, "more": 0}], "1"
    )
    second = table([{"answer": n, "question": f"Q{n % 3}"} for n in range(3)] + [{"answer": 0, "question": "q0 "}], "2")
    reporter = ListReporter()
    split = SplitConfig(train=1.0, validation=0.0, test=0.0)
    report = preprocess([first, second], config(split=split), tokenizer_folder, tmp_path / "out", reporter)
    found = rows_of(tmp_path / "out")
    assert [(row["row"], row["completion"]) for row in found] == [*((n, f"a{n}") for n in range(6)), (7, "0"), (8, "1"), (9, "2")]
    assert report.funnel == {"in": 11, "cleaned": 10, "deduplicated": 9, "fitting": 9, "train": 9, "validation": 0, "test": 0}
    assert (report.duplicates, report.cleaned["empty_rows"], report.cleaned["control_characters"]) == (1, 1, 6)
    assert pq.read_table(tmp_path / "out" / "test.parquet").schema.equals(SCHEMA)
    without = preprocess([first, second], config(split=split, dedup=False, clean=False), tokenizer_folder, tmp_path / "raw", reporter)
    assert (without.duplicates, without.cleaned, without.no_trainable_token, without.splits["train"]) == (0, {}, 1, 10)


def test_input_column_and_numbers(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    rows = [{"i": "Add.", "c": f"{n} + 1", "o": n + 1.0} for n in range(5)] + [{"i": "Say hi.", "c": None, "o": 0.5}]
    mapping = TemplateMapping(instruction="i", input="c", output="o")
    prepare_rows(table(rows), config(mapping=mapping), tokenizer_folder, tmp_path / "rows.parquet", ListReporter())
    found = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [row["completion"] for row in found] == ["1", "2", "3", "4", "5", "0.5"]
    assert ["### Input:" in row["prompt"] for row in found] == [True] * 5 + [False]


def test_too_long_rows(table: Table, tokenizer_folder: Path, tmp_path: Path, problems: Callable[[int], list[dict[str, str]]]) -> None:
    rows = problems(30)
    rows[7]["answer"] = rows[9]["answer"] = "long " * 500
    path = table(rows)
    report = preprocess([path], config(max_length=600), tokenizer_folder, tmp_path / "out", ListReporter())
    assert (report.too_long, report.funnel["fitting"]) == (2, 28)
    assert {7, 9}.isdisjoint(row["row"] for row in rows_of(tmp_path / "out"))
    assert report.max_length <= 600
    with pytest.raises(DatasetError, match=r"2 of 30 rows .*rows 8, 10") as caught:
        preprocess([path], config(max_length=600, truncation="fail"), tokenizer_folder, tmp_path / "no", ListReporter())
    assert caught.value.metadata == {"too_long": 2, "rows": [8, 10]}
    exact = config(max_length=report.max_length, truncation="fail")
    short = table([row for number, row in enumerate(rows) if number not in (7, 9)], "short")
    assert preprocess([short], exact, tokenizer_folder, tmp_path / "exact", ListReporter()).too_long == 0


def test_nothing_left_says_why_and_writes_nothing(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = table([{"question": f"q{number}", "answer": "a"} for number in range(20)])
    with pytest.raises(DatasetError, match="None of the 20 rows") as caught:
        preprocess([path], config(max_length=8), tokenizer_folder, out, ListReporter())
    assert caught.value.metadata["too_long"] == 20
    empty = table([{"question": f"q{number}", "answer": " "} for number in range(20)], "empty")
    for clean, field in ((True, "empty_rows"), (False, "no_trainable_token")):
        with pytest.raises(DatasetError, match="empty") as caught:
            preprocess([empty], config(clean=clean), tokenizer_folder, out, ListReporter())
        assert caught.value.metadata[field] == 20
        with pytest.raises(DatasetError, match="empty"):
            prepare_rows(empty, config(clean=clean), tokenizer_folder, out, ListReporter())
    assert not out.exists()


def test_too_few_rows_to_split(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="at least 3 rows"):
        preprocess([table([{"question": "q", "answer": "a"}] * 9)], config(), tokenizer_folder, tmp_path / "out", ListReporter())


def test_mapping_to_columns_that_are_not_there(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    mapping = TemplateMapping(instruction="question", input="context", output="reply")
    with pytest.raises(DatasetError, match=r"its columns are 'question', 'answer'") as caught:
        preprocess([table([{"question": "q", "answer": "a"}])], config(mapping=mapping), tokenizer_folder, tmp_path / "out", ListReporter())
    assert caught.value.metadata["field"] == "template_mapping.input"
    assert [error["field"] for error in caught.value.metadata["errors"]] == ["template_mapping.input", "template_mapping.output"]
    check_mapping(["reply", "question", "context"], config(mapping=mapping))


def test_cancelled_between_batches(
    table: Table, tokenizer_folder: Path, tmp_path: Path, problems: Callable[[int], list[dict[str, str]]]
) -> None:
    for checks in range(4):
        with pytest.raises(Cancelled):
            preprocess([table(problems(50))], config(), tokenizer_folder, tmp_path / "out", ListReporter(cancel_after=checks))
    assert not (tmp_path / "out").exists()


def test_prepare_rows_keeps_duplicates(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    path = table([{"question": "q", "answer": "a"}] * 3 + [{"question": "", "answer": "a"}])
    out = tmp_path / "rows.parquet"
    assert prepare_rows(path, config(), tokenizer_folder, out, ListReporter()) == 3
    found = pq.read_table(out)
    assert found.schema.equals(SCHEMA)
    assert found["row"].to_pylist() == [0, 1, 2]


def test_report_is_plain_json(
    table: Table, tokenizer_folder: Path, tmp_path: Path, problems: Callable[[int], list[dict[str, str]]]
) -> None:
    report = preprocess([table(problems(20))], config(), tokenizer_folder, tmp_path / "out", ListReporter())
    assert json.loads((tmp_path / "out" / "preprocessing.json").read_text()) == report.model_dump(mode="json")
