"""Datasets to tokenized splits, as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llm_platform.data.encode import SCHEMA
from llm_platform.data.engine import LocalEngine
from llm_platform.data.layout import resolve
from llm_platform.data.preprocess import DROPPED, prepare_rows, preprocess, preprocessing_key
from llm_platform.data.report import funnel_png, lengths_png, read_report
from llm_platform.data.split import SPLITS
from llm_platform.data.tokenize import PromptTokenizer
from llm_platform.errors import Cancelled, DatasetError
from llm_platform.reporting import ListReporter
from llm_platform.specs import PreprocessingConfig, SplitConfig, TemplateMapping

Table = Callable[..., Path]
FILES = [f"{name}.parquet" for name in SPLITS]


def config(**fields: Any) -> PreprocessingConfig:
    mapping = fields.pop("mapping", TemplateMapping(instruction="question", output="answer"))
    return PreprocessingConfig.model_validate({"base_model": "base", "template_mapping": mapping, "max_length": 4096, **fields})


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
        assert row["loss_mask"].index(True) == row["prompt_length"]
    assert report.splits == {name: sum(row["split"] == name for row in found) for name in SPLITS}
    assert report.tokens == {name: sum(len(row["input_ids"]) for row in found if row["split"] == name) for name in SPLITS}
    assert report.trainable_tokens == sum(sum(row["loss_mask"]) for row in found)
    assert report.max_length == max(len(row["input_ids"]) for row in found)
    assert report.mean_length == round(sum(report.tokens.values()) / len(found), 2)
    assert list(report.funnel) == ["in", "cleaned", "deduplicated", "fitting", *SPLITS]
    assert read_report(out) == report
    assert any(f"{len(qa_rows):,} rows in" in message for _, message, _ in reporter.lines)
    assert [data["done"] for level, _, data in reporter.lines if level == "PROGRESS"][-1] == len(qa_rows)
    assert sum(bin.count for bin in report.lengths) == len(found)
    assert funnel_png(report).startswith(b"\x89PNG")
    assert lengths_png(report).startswith(b"\x89PNG")


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
    for name in [*FILES, DROPPED, "preprocessing.json"]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert one == two
    assert one.digest != other.digest
    assert one.digest == preprocessing_key([path], config(seed=1), tokenizer_folder, [""])
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
    assert (without.duplicates, without.cleaned, without.no_trainable_token, without.splits["train"]) == (0, {"empty_rows": 0}, 1, 10)


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
    assert resolve(["reply", "question", "context"], config(mapping=mapping)).wanted() == ["question", "context", "reply"]


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


def numbered(count: int, words: int = 30) -> list[dict[str, str]]:
    """Rows that have no run of words in common."""
    return [{"question": " ".join(f"w{n}x{word}" for word in range(words)), "answer": f"answer {n}"} for n in range(count)]


def dropped(out: Path) -> list[tuple[int, str, int | None]]:
    return [(row["row"], row["reason"], row["kept_row"]) for row in pq.read_table(out / DROPPED).to_pylist()]


def test_what_went_and_what_stands_for_it(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    rows = numbered(30)
    rows[4] = {"question": " ", "answer": "x"}
    rows[7] = {"question": rows[2]["question"].upper(), "answer": rows[2]["answer"]}
    rows[9] = {"question": rows[3]["question"].replace("w3x29", "other"), "answer": rows[3]["answer"]}
    rows[11]["answer"] = "long " * 2_000
    reporter = ListReporter()
    report = preprocess([table(rows)], config(near_dedup=True), tokenizer_folder, tmp_path / "out", reporter)
    assert dropped(tmp_path / "out") == [(4, "empty", None), (7, "duplicate", 2), (9, "near_duplicate", 3), (11, "too_long", None)]
    assert (report.duplicates, report.near_duplicates, report.too_long, report.funnel["fitting"]) == (1, 1, 1, 26)
    assert sorted(row["row"] for row in rows_of(tmp_path / "out")) == [n for n in range(30) if n not in (4, 7, 9, 11)]


def test_near_duplicates_stay_on_one_side(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"question": row["question"].replace(f"x{n}", f"y{n}", 1), "answer": row["answer"]} for row in numbered(60, 40) for n in range(3)
    ]
    preprocess([table(rows)], config(), tokenizer_folder, tmp_path / "out", ListReporter())
    sides: dict[int, set[str]] = {}
    for row in rows_of(tmp_path / "out"):
        sides.setdefault(row["row"] // 3, set()).add(row["split"])
    assert len(sides) == 60
    assert all(len(side) == 1 for side in sides.values())
    preprocess([table(rows)], config(split=SplitConfig(near_duplicates="ignore")), tokenizer_folder, tmp_path / "apart", ListReporter())
    assert read_report(tmp_path / "apart").contamination is not None


def test_contamination_is_reported_with_examples(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    rows = numbered(100)
    shared = " ".join(f"shared{n}" for n in range(14))
    held = [{"question": f"held{n} {'x' * n} {' '.join(f'h{n}h{m}' for m in range(20))}", "answer": "a"} for n in range(10)]
    held[3]["question"] += f" {shared}"
    rows[42]["question"] = f"{shared.upper()} {rows[42]['question']}"
    split = SplitConfig(train=1.0, validation=0.0, test=0.0, test_inputs=["held"])
    reporter = ListReporter()
    report = preprocess(
        [table(rows, "rows"), table(held, "held")],
        config(split=split),
        tokenizer_folder,
        tmp_path / "out",
        reporter,
        names=["rows", "held"],
    )
    assert report.contamination is not None
    assert (report.contamination.checked, report.contamination.overlapping, report.contamination.near_duplicates) == (10, 1, 0)
    (example,) = report.contamination.examples
    assert (example.row, example.train_row) == (104, 43)
    assert any("1 of 10 test prompts" in message for level, message, _ in reporter.lines if level == "WARN")
    silent = config(split=split, contamination=False)
    tables = [table(rows, "rows"), table(held, "held")]
    assert preprocess(tables, silent, tokenizer_folder, tmp_path / "no", reporter, names=["rows", "held"]).contamination is None


def test_wording_that_all_prompts_share_is_no_contamination(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    frame = "classify the mood of the following message as one of happy sad or something else entirely please answer with one word"
    rows = [{"question": f"{frame}: {row['question']}", "answer": "happy"} for row in numbered(60)]
    report = preprocess([table(rows)], config(), tokenizer_folder, tmp_path / "out", ListReporter())
    assert report.contamination is not None
    assert (report.contamination.checked, report.contamination.overlapping) == (6, 0)


def test_inputs_that_are_a_split_by_themselves(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    rows, held = numbered(40), [{"question": f"held out {n} " + "z" * n, "answer": "a"} for n in range(5)]
    rows[5] = held[2]
    tables = [table(rows, "rows"), table(held, "held")]
    split = SplitConfig(train=0.9, validation=0.1, test=0.0, test_inputs=["held"])
    report = preprocess(tables, config(split=split), tokenizer_folder, tmp_path / "out", ListReporter(), names=["rows", "held"])
    found = rows_of(tmp_path / "out")
    assert {row["row"] for row in found if row["split"] == "test"} == set(range(40, 45))
    assert report.splits == {"train": 35, "validation": 4, "test": 5}
    assert dropped(tmp_path / "out") == [(5, "duplicate", 42)]  # the held-out row stays, wherever it comes
    kept = config(split=split, dedup=False)
    report = preprocess(tables, kept, tokenizer_folder, tmp_path / "kept", ListReporter(), names=["rows", "held"])
    assert report.left_out == 1
    assert dropped(tmp_path / "kept") == [(5, "bound_to_given_split", None)]
    keys = [
        preprocessing_key(tables, config(split=split), tokenizer_folder, names)
        for names in (["rows", "held"], ["held", "rows"], ["x", "held"])
    ]
    assert keys[0] == keys[2] != keys[1]


def test_conversations(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    def chat(n: int) -> list[dict[str, str]]:
        return [
            {"role": "user", "content": f"Question {n}? "},
            {"role": "assistant", "content": f"Answer {n}."},
            {"role": "user", "content": f"And {n + 1}?"},
            {"role": "assistant", "content": f"Also {n + 1}."},
        ]

    rows: list[dict[str, Any]] = [{"messages": chat(n)} for n in range(20)]
    rows[3]["messages"][1]["content"] = " "
    rows[8] = {"messages": chat(2)}
    settings = config(mapping=TemplateMapping(), template="chatml", system_prompt="Be brief.")
    report = preprocess([table(rows)], settings, tokenizer_folder, tmp_path / "out", ListReporter())
    assert (report.layout, report.columns) == ("messages", {"messages": "messages"})
    assert dropped(tmp_path / "out") == [(3, "empty", None), (8, "duplicate", 2)]
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    found = {row["row"]: row for row in rows_of(tmp_path / "out")}
    row = found[5]
    assert "Be brief." in row["prompt"]
    assert "Question 5?<" in row["prompt"]
    trained = tokenizer.decode([token for token, train in zip(row["input_ids"], row["loss_mask"], strict=True) if train])
    assert "Answer 5." in trained
    assert "Also 6." in trained
    assert "Question" not in trained
    broken = [*rows[:2], {"messages": [{"role": "robot", "content": "x"}]}]
    with pytest.raises(DatasetError, match="row 3: turn 1 has no known role") as caught:
        preprocess([table(broken, "broken")], settings, tokenizer_folder, tmp_path / "broken", ListReporter())
    assert caught.value.metadata["rows"] == [3]
    with pytest.raises(DatasetError, match="Some inputs hold conversations"):
        mixed = [table(rows, "chat"), table([{"prompt": "q", "completion": "a"}], "single")]
        preprocess(mixed, settings, tokenizer_folder, tmp_path / "mixed", ListReporter())
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"out"}


def test_text_alone_needs_the_plain_template(table: Table, tokenizer_folder: Path, tmp_path: Path) -> None:
    path = table([{"text": f"This is document number {n}, about {n * n}."} for n in range(20)])
    with pytest.raises(DatasetError, match="'plain'") as caught:
        preprocess([path], config(mapping=TemplateMapping()), tokenizer_folder, tmp_path / "out", ListReporter())
    assert caught.value.metadata["field"] == "template"
    preprocess([path], config(mapping=TemplateMapping(), template="plain"), tokenizer_folder, tmp_path / "out", ListReporter())
    for row in rows_of(tmp_path / "out"):
        assert row["prompt"] == ""
        assert row["completion"].startswith("This is document")
        assert sum(row["loss_mask"]) >= len(row["input_ids"]) - 1


def test_truncation_is_counted(
    table: Table, tokenizer_folder: Path, tmp_path: Path, problems: Callable[[int], list[dict[str, str]]]
) -> None:
    rows = problems(30)
    rows[7]["question"] = "long " * 500 + rows[7]["question"]
    settings = config(max_length=600, truncation="truncate_prompt")
    report = preprocess([table(rows)], settings, tokenizer_folder, tmp_path / "out", ListReporter())
    assert (report.too_long, report.truncated, report.funnel["fitting"], report.max_length) == (0, 1, 30, 600)


def test_any_number_of_threads_gives_the_same_bytes(
    table: Table, tokenizer_folder: Path, tmp_path: Path, problems: Callable[[int], list[dict[str, str]]]
) -> None:
    rows = problems(3_000)
    tables = [table(rows[start : start + 500], f"t{start}") for start in range(0, 3_000, 500)]
    for threads in (1, 4):
        engine = LocalEngine(threads)
        preprocess(tables, config(near_dedup=True), tokenizer_folder, tmp_path / str(threads), ListReporter(), engine=engine)
    for name in [*FILES, DROPPED, "preprocessing.json"]:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "4" / name).read_bytes()
