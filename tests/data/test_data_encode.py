"""Rows as ids and masks: what is trained, and what becomes of rows that are too long."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_platform.data.encode import SCHEMA, Encoded, encode_rows, shown_tokens
from llm_platform.data.render import Template
from llm_platform.data.tokenize import PromptTokenizer
from llm_platform.specs import PreprocessingConfig
from llm_platform.training.rows import read_rows

Messages = list[tuple[str, str]]
MULTI = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Ho"), ("user", "And?"), ("assistant", "So.")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> PromptTokenizer:
    return PromptTokenizer.from_folder(tokenizer_folder)


def conversations(rows: list[Messages]) -> pl.DataFrame:
    kind = pl.List(pl.String)
    columns = [pl.Series([[pair[place] for pair in row] for row in rows], dtype=kind) for place in (0, 1)]
    return pl.DataFrame({"row": pl.Series(range(10, 10 + len(rows)), dtype=pl.Int64), "roles": columns[0], "contents": columns[1]})


def encode(tokenizer: PromptTokenizer, rows: list[Messages], **config: Any) -> Encoded:
    made = PreprocessingConfig.model_validate({"base_model": "some/model", "max_length": 4096, "template": "zephyr", **config})
    return encode_rows(conversations(rows), Template.load(made, tokenizer), tokenizer, made)


def trained(tokenizer: PromptTokenizer, table: pa.Table) -> list[list[str]]:
    """The texts of each row whose tokens are all trained, in order."""
    return [
        ["".join(token.text for token in run) for is_trained, run in itertools.groupby(row, lambda token: token.trained) if is_trained]
        for row in shown_tokens(table, tokenizer)
    ]


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("completions", ["Ho</s>", "So.</s>"]),
        ("last", ["So.</s>"]),
        ("all", [" <|system|>\nBe kind.</s> \n<|user|>\nHi</s> \n<|assistant|>\nHo</s> \n<|user|>\nAnd?</s> \n<|assistant|>\nSo.</s>"]),
    ],
)
def test_what_is_trained(tokenizer: PromptTokenizer, train_on: str, expected: list[str]) -> None:
    made = encode(tokenizer, [MULTI], train_on=train_on)
    assert made.table.schema == SCHEMA
    assert trained(tokenizer, made.table) == [expected]
    [row] = made.table.to_pylist()
    assert tokenizer.decode(row["input_ids"][row["prompt_length"] :]) == "So."
    assert row["completion"] == "So."
    assert row["prompt"].endswith("And?</s>\n<|assistant|>\n")
    assert row["row"] == 10


def test_generation_starts_from_the_prompt_whatever_is_trained(tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    rows: list[Messages] = [MULTI, [("user", "Hi"), ("assistant", "Ho")]]
    starts = []
    for train_on in ("completions", "last", "all"):
        table = encode(tokenizer, rows, train_on=train_on).table
        pq.write_table(table, tmp_path / "split.parquet")
        read = read_rows(tmp_path / "split.parquet")
        prompts = [read.prompt(index).tolist() for index in range(2)]
        assert prompts == [row["input_ids"][: row["prompt_length"]] for row in table.to_pylist()]
        assert [read.take(np.array([1, 0])).prompt(index).tolist() for index in (1, 0)] == prompts
        starts.append(prompts)
    assert starts[0] == starts[1] == starts[2]
    assert tokenizer.decode(starts[0][1]).endswith("Hi \n<|assistant|>\n")


def test_a_split_without_prompt_lengths(tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    table = encode(tokenizer, [[("user", "Hi"), ("assistant", "Ho")]]).table
    paths = [tmp_path / "new.parquet", tmp_path / "old.parquet"]
    pq.write_table(table, paths[0])
    pq.write_table(table.drop_columns(["prompt_length"]), paths[1])
    new, old = map(read_rows, paths)
    assert new.prompt(0).tolist() == old.prompt(0).tolist()
    assert new.digest() == old.digest()


@pytest.mark.parametrize("truncation", ["drop", "fail"])
def test_rows_that_are_too_long_are_named(tokenizer: PromptTokenizer, truncation: str) -> None:
    short = [("user", "Hi"), ("assistant", "Ho")]
    long = [("user", "Hi"), ("assistant", "Ho " * 30)]
    length = len(encode(tokenizer, [short]).table["input_ids"][0])
    made = encode(tokenizer, [short, long, short, [("user", "x"), ("assistant", " \n")]], truncation=truncation, max_length=length)
    assert made.table["row"].to_pylist() == [10, 12]
    assert (made.too_long, made.truncated, made.untrainable) == ([11], [], [13])


def test_a_prompt_is_cut_at_its_start(tokenizer: PromptTokenizer) -> None:
    row = [("user", "one two three four five six seven"), ("assistant", "Ho so")]
    whole = encode(tokenizer, [row]).table.to_pylist()[0]
    answer = whole["input_ids"][whole["prompt_length"] :]
    for most in range(8, len(whole["input_ids"])):
        made = encode(tokenizer, [row], truncation="truncate_prompt", max_length=most)
        if most < len(answer) + 1:
            assert (made.table.num_rows, made.too_long, made.truncated) == (0, [10], [])
            continue
        [cut] = made.table.to_pylist()
        assert made.truncated == [10]
        assert cut["input_ids"] == [tokenizer.bos_id, *whole["input_ids"][len(whole["input_ids"]) - most + 1 :]]
        assert cut["loss_mask"] == [False] * (most - len(answer)) + [True] * len(answer)
        assert cut["prompt_length"] == most - len(answer)
        assert cut["prompt"] == whole["prompt"]


def test_a_cut_answer_is_not_taught_to_end(tokenizer: PromptTokenizer) -> None:
    row = [("user", "one two three"), ("assistant", "Ho so many apples")]
    [whole] = encode(tokenizer, [row]).table.to_pylist()
    for most in range(8, len(whole["input_ids"])):
        made = encode(tokenizer, [row], truncation="truncate_end", max_length=most)
        if most <= whole["prompt_length"]:
            assert (made.table.num_rows, made.too_long, made.truncated, made.untrainable) == (0, [], [], [10])
            continue
        [cut] = made.table.to_pylist()
        assert (made.truncated, made.untrainable) == ([10], [])
        assert cut["input_ids"] == whole["input_ids"][:most]
        assert cut["loss_mask"] == whole["loss_mask"][:most]
        assert cut["input_ids"][-1] != tokenizer.eos_id


def test_a_conversation_whose_last_answer_is_cut_off(tokenizer: PromptTokenizer) -> None:
    [whole] = encode(tokenizer, [MULTI]).table.to_pylist()
    most = whole["prompt_length"] - 2
    [cut] = encode(tokenizer, [MULTI], truncation="truncate_end", max_length=most).table.to_pylist()
    assert trained(tokenizer, pa.Table.from_pylist([cut], schema=SCHEMA)) == [["Ho</s>"]]
    assert cut["prompt_length"] == most
    assert encode(tokenizer, [MULTI], truncation="truncate_end", train_on="last", max_length=most).untrainable == [10]


def test_without_a_bos_token_the_first_token_is_never_trained(tokenizer_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    plain = PromptTokenizer.from_folder(tmp_path)
    config = PreprocessingConfig(base_model="x", template="plain", max_length=8, truncation="truncate_prompt")
    texts = {"instruction": ["", "a b c d e f g h i j"], "input": ["", ""], "output": ["Ana had", "Ana had 3"]}
    frame = pl.DataFrame({"row": [0, 1], "system": pl.Series([None, None], dtype=pl.String), **texts})
    made = encode_rows(frame, Template.load(config, plain), plain, config)
    first, second = made.table.to_pylist()
    assert first["prompt_length"] == 0 and first["loss_mask"] == [False] + [True] * (len(first["input_ids"]) - 1)
    assert made.truncated == [1] and len(second["input_ids"]) == 8 and not second["loss_mask"][0]


def test_shown_tokens_are_the_rendered_row(any_tokenizer_folder: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(any_tokenizer_folder)
    row = [("user", "How many apples, Ana?"), ("assistant", "Ana has 4 👩‍🚀.")]
    table = encode(tokenizer, [row, row]).table
    one, other = shown_tokens(table, tokenizer)
    assert one == other
    assert [token.id for token in one] == table["input_ids"].to_pylist()[0]
    text = "".join(token.text for token in one)
    written = tokenizer.decode([token.id for token in one], skip_special_tokens=False)
    assert text == written
    assert [token.text for token in one if token.trained][-1].strip() == "</s>"


def test_no_rows(tokenizer: PromptTokenizer) -> None:
    for rows in ([], [[("user", "a"), ("assistant", "")]]):
        made = encode(tokenizer, rows)
        assert made.table.schema == SCHEMA and made.table.num_rows == 0
        assert made.untrainable == [10][: len(rows)]


CONTENTS = st.one_of(
    st.sampled_from(["", " ", "Ana had 3 apples.", "\n", "</s>", "so</s></s>", "<s>", "a  b\n\nc", "ü 日本", "<|user|>", "\ufdd8\ufdd0"]),
    st.text(max_size=8),
)
TALKS = st.tuples(st.booleans(), CONTENTS, st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=3)).map(
    lambda talk: [
        *([("system", talk[1])] if talk[0] else []),
        *(turn for user, answer in talk[2] for turn in (("user", user), ("assistant", answer))),
    ]
)


@given(
    rows=st.lists(TALKS, max_size=6),
    template=st.sampled_from(["alpaca", "zephyr", "llama2", "vicuna", "plain"]),
    train_on=st.sampled_from(["completions", "last", "all"]),
    truncation=st.sampled_from(["drop", "truncate_prompt", "truncate_end"]),
    most=st.integers(8, 200),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80, derandomize=True)
def test_every_row_is_accounted_for(
    tokenizer: PromptTokenizer, rows: list[Messages], template: str, train_on: str, truncation: str, most: int
) -> None:
    how: dict[str, Any] = {"template": template, "train_on": train_on}
    whole = {row["row"]: row for row in encode(tokenizer, rows, **how).table.to_pylist()}
    made = encode(tokenizer, rows, **how, truncation=truncation, max_length=most)
    kept = made.table["row"].to_pylist()
    assert kept == sorted(kept)
    assert sorted([*kept, *made.too_long, *made.untrainable]) == list(range(10, 10 + len(rows)))
    assert set(made.truncated) <= set(kept)
    for row in made.table.to_pylist():
        length = len(row["input_ids"])
        assert len(row["loss_mask"]) == length <= most
        assert any(row["loss_mask"]) and not row["loss_mask"][0]
        assert row["input_ids"][0] == tokenizer.bos_id
        if row["row"] not in made.truncated:
            assert row == whole[row["row"]]
            assert (row["input_ids"][-1], row["loss_mask"][-1]) == (tokenizer.eos_id, True)
            assert not any(row["loss_mask"][: row["prompt_length"]]) or train_on != "last"
            assert all(row["loss_mask"][max(1, row["prompt_length"]) :])
        elif truncation == "truncate_end":
            assert row["input_ids"] == whole[row["row"]]["input_ids"][:length]
        else:
            assert row["input_ids"][1:] == whole[row["row"]]["input_ids"][1 - length :]
    for number, row in enumerate(rows):
        alone = encode(tokenizer, [row], **how, truncation=truncation, max_length=most)
        assert [{**found, "row": 10 + number} for found in alone.table.to_pylist()] == [
            found for found in made.table.to_pylist() if found["row"] == 10 + number
        ]
