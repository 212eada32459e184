"""What the columns are for, and conversations in the forms in which people keep them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_platform.data.layout import Columns, conversation, detect_layout, normalize, resolve
from llm_platform.data.profile import profile
from llm_platform.errors import DatasetError
from llm_platform.specs import PreprocessingConfig, TemplateMapping

CONFIG = PreprocessingConfig(base_model="llm-platform/tiny-llama")


@pytest.mark.parametrize(
    ("columns", "layout", "slots"),
    [
        (["messages"], "messages", {"messages": "messages"}),
        (["id", "Messages", "system"], "messages", {"messages": "Messages", "system": "system"}),
        (["conversations"], "conversations", {"messages": "conversations"}),
        (["conversation", "text"], "conversations", {"messages": "conversation"}),
        (["instruction", "input", "output"], "instruction", {"instruction": "instruction", "input": "input", "output": "output"}),
        (["instruction", "context", "response"], "instruction", {"instruction": "instruction", "input": "context", "output": "response"}),
        (["prompt", "completion"], "prompt_completion", {"instruction": "prompt", "output": "completion"}),
        (["question", "answer"], "question_answer", {"instruction": "question", "output": "answer"}),
        ([" Question ", "ANSWER"], "question_answer", {"instruction": " Question ", "output": "ANSWER"}),
        (["text", "label"], "text_label", {"instruction": "text", "output": "label"}),
        (["text"], "text", {"output": "text"}),
        (["id", "content"], "text", {"output": "content"}),
        (["a", "b"], "unknown", {}),
        ([], "unknown", {}),
    ],
)
def test_detected(columns: list[str], layout: str, slots: dict[str, str]) -> None:
    found = detect_layout(columns)
    assert (found.layout, found.by_slot()) == (layout, slots)
    assert sorted(found.wanted()) == sorted(set(slots.values()))


def test_a_mapping_overrides_what_is_detected() -> None:
    columns = ["question", "answer", "messages", "hint"]
    assert resolve(columns, CONFIG).messages == "messages"
    mapping = TemplateMapping(instruction="question", input="hint", output="answer")
    assert resolve(columns, CONFIG.model_copy(update={"template_mapping": mapping})).wanted() == ["question", "hint", "answer"]
    only_system = CONFIG.model_copy(update={"template_mapping": TemplateMapping(system="hint")})
    assert resolve(columns, only_system) == Columns("messages", messages="messages", system="hint")


@pytest.mark.parametrize(
    ("columns", "changes", "field", "words"),
    [
        (["a", "b"], {}, "template_mapping", "'a', 'b'"),
        (["question", "answer"], {"template_mapping": TemplateMapping(instruction="q")}, "template_mapping.instruction", "'q'"),
        (["text"], {}, "template", "plain"),
    ],
)
def test_what_cannot_be_resolved(columns: list[str], changes: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(DatasetError) as caught:
        resolve(columns, CONFIG.model_copy(update=changes))
    assert caught.value.metadata["field"] == field and words in caught.value.message
    assert caught.value.metadata["errors"][0]["field"] == field


TURNS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=2, max_size=8)
HUMAN, MODEL = st.sampled_from(["user", "human", "User", "prompter"]), st.sampled_from(["assistant", "gpt", "ASSISTANT", "model"])


def openai(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def sharegpt(role: str, content: str) -> dict[str, Any]:
    return {"from": role, "value": content}


def parts(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": content[:5]}, {"type": "text", "text": content[5:]}]}


def filled(role: str, content: str) -> dict[str, Any]:
    """As a table has it whose other rows are in the other form."""
    return {"role": None, "content": None, "from": role, "value": content}


FORMS = st.sampled_from([openai, sharegpt, parts, filled])


@given(TURNS, HUMAN, MODEL, FORMS, st.booleans(), st.booleans())
def test_every_form_gives_the_same_turns(
    texts: list[str], human: str, model: str, form: Callable[..., Any], with_system: bool, as_json: bool
) -> None:
    texts = texts[: len(texts) // 2 * 2]
    cell = [form([human, model][number % 2], text) for number, text in enumerate(texts)]
    expected = [(["user", "assistant"][number % 2], text) for number, text in enumerate(texts)]
    if with_system:
        cell, expected = [form("system", "Be brief."), *cell], [("system", "Be brief."), *expected]
    tail = [form(human, "And now?")]  # a question without an answer teaches nothing
    assert conversation(json.dumps(cell + tail) if as_json else cell + tail) == (expected, None)
    assert conversation({"conversation": cell}) == (expected, None)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, "no turns"),
        ([], "no turns"),
        ("hello", "not a list of turns"),
        ("[" * 100_000, "not a list of turns"),
        ('[{"role": "user", "content": "\\ud800"}]', "not a list of turns"),
        (5, "no turns"),
        ([{"role": "user", "content": "a"}], "no answer"),
        ([{"role": "teacher", "content": "a"}], "turn 1 has no known role"),
        ([openai("user", "a"), {"role": "assistant", "content": None}], "turn 2 has no text"),
        ([openai("user", "a"), {"role": "assistant", "content": [{"type": "image"}]}], "turn 2 has no text"),
        (["a", "b"], "turn 1 has no known role"),
        ([openai("user", "a"), openai("user", "b"), openai("assistant", "c")], "turns 1 and 2"),
        ([openai("assistant", "a"), openai("user", "b"), openai("assistant", "c")], "begins with an answer"),
        ([openai("user", "a"), openai("system", "b"), openai("assistant", "c")], "turn 2 is a system prompt"),
    ],
    ids=str,
)
def test_broken_conversations(cell: Any, words: str) -> None:
    _, problem = conversation(cell)
    assert problem is not None and words in problem


def test_broken_rows_have_their_numbers() -> None:
    fine = json.dumps([openai("user", "a"), openai("assistant", "b")])
    frame = pl.DataFrame({"messages": [fine, "oops", fine, None]})
    with pytest.raises(DatasetError) as caught:
        normalize(frame, detect_layout(["messages"]))
    assert caught.value.metadata["rows"] == [2, 4]
    assert [(error["row"], error["column"], error["rule"]) for error in caught.value.metadata["errors"]] == [
        (2, "messages", "conversation"),
        (4, "messages", "conversation"),
    ]
    assert "row 2: not a list" in caught.value.message


def test_normal_forms() -> None:
    chat = pl.DataFrame({"messages": [[openai("user", "a"), openai("assistant", "b")]], "system": ["Be kind."]})
    made = normalize(chat, detect_layout(chat.columns), "Be brief.")
    assert made.rows() == [(["system", "user", "assistant"], ["Be kind.", "a", "b"])]
    slots = pl.DataFrame({"question": ["a", None], "answer": [1.0, 2.5], "context": [["x"], None]})
    made = normalize(slots, detect_layout(slots.columns), "Be brief.")
    assert made.rows(named=True) == [
        {"system": "Be brief.", "instruction": "a", "input": '["x"]', "output": "1"},
        {"system": "Be brief.", "instruction": None, "input": None, "output": "2.5"},
    ]


ROWS = [{"messages": [openai("user", "ab"), openai("assistant", "cde")] * (1 + number % 2)} for number in range(10)]


@pytest.mark.parametrize("as_json", [True, False])
def test_the_profile_of_conversations(tmp_path: Path, as_json: bool) -> None:
    """The contents are measured, not the JSON around them."""
    cells = [row["messages"] for row in ROWS] + [[openai("user", "nobody answers this long question")]]
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"messages": [json.dumps(cell) for cell in cells] if as_json else cells}), table)
    found = profile(table)
    assert found.layout.model_dump() == {"name": "messages", "columns": {"messages": "messages"}}
    assert found.analysis.text_column == "messages" and found.analysis.stats is not None
    assert found.analysis.stats.model_dump() == {"avg_length": 7.5, "min_length": 5, "max_length": 10}
    assert found.turns is not None and found.turns.model_dump() == {"mean": 3.0, "min": 2, "max": 4, "unusable": 1}
    assert found.duplicates == 8


def test_a_column_that_is_only_named_like_conversations(tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"conversation": ["We talked about it.", "Never again."], "text": ["a", "b"]}), table)
    found = profile(table)
    assert (found.layout.name, found.analysis.text_column, found.turns) == ("text", "conversation", None)
