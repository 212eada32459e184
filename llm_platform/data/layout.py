"""Which columns of a dataset mean what: its layout, and its rows in one of two normal forms.

Slots, for rows of one prompt and one answer: the text columns `system` (null if there is none), `instruction`, `input` and
`output`. Conversations: the list columns `roles` (system, user, assistant, tool) and `contents`, of equal length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl

from llm_platform.data.canonical import shown
from llm_platform.data.cells import as_text
from llm_platform.errors import DatasetError
from llm_platform.specs import PreprocessingConfig, TemplateMapping
from llm_platform.specs.resources import Layout

_ANSWERS = ("output", "response", "completion", "answer", "answers", "target", "chosen")
_PAIRS: tuple[tuple[Layout, tuple[str, ...], tuple[str, ...]], ...] = (
    ("instruction", ("instruction",), _ANSWERS),
    ("prompt_completion", ("prompt",), _ANSWERS),
    ("question_answer", ("question", "query", "problem"), _ANSWERS),
    ("text_label", ("text", "sentence", "content", "document"), ("label", "labels", "category", "class", "intent")),
)
_CONTEXTS = ("input", "context")
_TEXTS = ("text", "content", "document")
_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "tool": "tool", "function": "tool",
    "observation": "tool",
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The columns that fill the slots. Either `messages`, or `output` with or without `instruction` (none: text alone)."""

    layout: Layout
    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    system: str | None = None
    messages: str | None = None

    def by_slot(self) -> dict[str, str]:
        """The column of each slot that has one."""
        slots = ("system", "instruction", "input", "output", "messages")
        return {slot: column for slot in slots if (column := getattr(self, slot)) is not None}

    def wanted(self) -> list[str]:
        """Each column once."""
        return list(dict.fromkeys(self.by_slot().values()))


def detect_layout(columns: Sequence[str]) -> Columns:
    """The layout by the names of the columns, whatever their case; `unknown` with no column named if none fits."""
    by_name: dict[str, str] = {}
    for column in columns:
        by_name.setdefault(column.strip().lower(), column)

    def first(names: Sequence[str]) -> str | None:
        return next((by_name[name] for name in names if name in by_name), None)

    system = first(("system", "system_prompt"))
    for name, layout in (("messages", "messages"), ("conversations", "conversations"), ("conversation", "conversations")):
        if name in by_name:
            return Columns("messages" if layout == "messages" else "conversations", messages=by_name[name], system=system)
    for layout, prompts, answers in _PAIRS:
        prompt, answer = first(prompts), first(answers)
        if prompt is not None and answer is not None:
            return Columns(layout, instruction=prompt, input=first(_CONTEXTS), output=answer, system=system)
    text = first(_TEXTS)
    return Columns("text", output=text) if text is not None else Columns("unknown")


def resolve(columns: Sequence[str], config: PreprocessingConfig) -> Columns:
    """The columns that `config` names, or those of the detected layout if its mapping names none.

    Raises DatasetError, with each field's path, if a column is not among `columns`, if nothing tells which columns to take, or
    if there is only text and the template needs a prompt.
    """
    mapping = config.template_mapping
    found = _mapped(mapping) if mapping != TemplateMapping(system=mapping.system) else _detected(columns, mapping)
    named = {
        "template_mapping.system": found.system,
        "template_mapping.instruction": found.instruction,
        "template_mapping.input": found.input,
        "template_mapping.output": found.output,
        "template_mapping.messages": found.messages,
        "split.stratify_by": config.split.stratify_by,
        "split.group_by": config.split.group_by,
    }
    missing = {field: column for field, column in named.items() if column is not None and column not in columns}
    if missing:
        told = ", ".join(f"{shown(column)} ({field})" for field, column in missing.items())
        raise _refused(
            f"The dataset has no column {told}; its columns are", columns, {f: f"no column {shown(c)}" for f, c in missing.items()}
        )
    if found.instruction is None and found.messages is None and config.template not in ("plain", "custom"):
        raise _refused(
            f"Template '{config.template}' needs a prompt, and the dataset has only text ({shown(str(found.output))}): set template to "
            "'plain' to train on the text alone, or name the columns in template_mapping; its columns are",
            columns,
            {"template": "needs a prompt; 'plain' does not"},
        )
    return found


def _mapped(mapping: TemplateMapping) -> Columns:
    if mapping.messages is not None:
        return Columns("messages", messages=mapping.messages, system=mapping.system)
    return Columns(
        "instruction",
        instruction=mapping.instruction or "instruction",
        input=mapping.input,
        output=mapping.output or "output",
        system=mapping.system,
    )


def _detected(columns: Sequence[str], mapping: TemplateMapping) -> Columns:
    found = detect_layout(columns)
    if found.layout == "unknown":
        raise _refused(
            "Nothing tells which columns are prompt and answer; name them in template_mapping (instruction and output, or messages). "
            "The columns are",
            columns,
            {"template_mapping": "name the columns of prompt and answer"},
        )
    return found if mapping.system is None else Columns(**{**found.__dict__, "system": mapping.system})


def _refused(message: str, columns: Sequence[str], errors: dict[str, str]) -> DatasetError:
    known = ", ".join(shown(column) for column in list(columns)[:50])
    return DatasetError(
        f"{message} {known}",
        field=next(iter(errors)),
        errors=[{"field": field, "message": text} for field, text in errors.items()],
        columns=list(columns)[:1000],
    )


def normalize(frame: pl.DataFrame, columns: Columns, system_prompt: str | None = None, first_row: int = 0) -> pl.DataFrame:
    """The rows of `frame` in one of the two normal forms, in order. `frame` has the columns' own names.

    Raises DatasetError, with row numbers from 1 (`first_row` rows came before), for cells that hold no proper conversation.
    """
    if columns.messages is not None:
        return _conversations(frame, columns, system_prompt, first_row)
    slots = {"system": columns.system, "instruction": columns.instruction, "input": columns.input, "output": columns.output}
    found = pl.DataFrame({slot: frame[column] for slot, column in slots.items() if column is not None})
    texts = found.select(as_text(slot, kind).alias(slot) for slot, kind in found.schema.items())
    given = pl.lit(system_prompt, dtype=pl.String)
    system = pl.when(pl.col("system").str.strip_chars() != "").then("system").otherwise(given) if columns.system else given
    return texts.with_columns(
        system.alias("system"),
        *(pl.lit("").alias(slot) for slot, column in slots.items() if column is None and slot != "system"),
    ).select("system", "instruction", "input", "output")


def _conversations(frame: pl.DataFrame, columns: Columns, system_prompt: str | None, first_row: int) -> pl.DataFrame:
    systems = frame[columns.system].cast(pl.String).to_list() if columns.system else [None] * frame.height
    roles: list[list[str]] = []
    contents: list[list[str]] = []
    wrong: list[tuple[int, str]] = []
    for index, (cell, system) in enumerate(zip(frame[str(columns.messages)].to_list(), systems, strict=True)):
        turns, problem = conversation(cell)
        if problem:
            wrong.append((first_row + index + 1, problem))
        given = system if system and system.strip() else system_prompt
        if given and (not turns or turns[0][0] != "system"):
            turns = [("system", given), *turns]
        roles.append([role for role, _ in turns])
        contents.append([content for _, content in turns])
    if wrong:
        raise bad_conversations(wrong, str(columns.messages))
    kind = pl.List(pl.String)
    return pl.DataFrame({"roles": pl.Series(roles, dtype=kind), "contents": pl.Series(contents, dtype=kind)})


def bad_conversations(wrong: Sequence[tuple[int, str]], column: str) -> DatasetError:
    """The error for rows whose conversation cannot be used: (row from 1, why)."""
    told = "; ".join(f"row {row:,}: {problem}" for row, problem in wrong[:3])
    return DatasetError(
        f"{len(wrong):,} rows have no usable conversation in column {shown(column)}: {told}",
        errors=[{"rule": "conversation", "column": column, "row": row, "value": problem} for row, problem in wrong[:10]],
        rows=[row for row, _ in wrong[:100]],
    )


def conversation(cell: Any) -> tuple[list[tuple[str, str]], str | None]:
    """The turns (role, content) of a cell up to its last answer, and what is wrong with them, if anything is.

    A cell is a list of turns, or its JSON text. A turn has `role` and `content` (a text, or a list of text parts) as OpenAI
    writes it, or `from` and `value` as ShareGPT does.
    """
    if isinstance(cell, str):
        try:
            cell = orjson.loads(cell)
        except orjson.JSONDecodeError:
            return [], "not a list of turns, nor the JSON of one"
    if isinstance(cell, dict) and len(cell) == 1:
        cell = next(iter(cell.values()))
    if not isinstance(cell, list) or not cell:
        return [], "no turns"
    turns: list[tuple[str, str]] = []
    for number, item in enumerate(cell, start=1):
        role, content = _turn(item)
        if role is None:
            return [], f"turn {number} has no known role ({', '.join(dict.fromkeys(_ROLES))})"
        if content is None:
            return [], f"turn {number} has no text"
        turns.append((role, content))
    while turns and turns[-1][0] != "assistant":
        turns.pop()
    return turns, _order_problem(turns)


def _turn(item: Any) -> tuple[str | None, str | None]:
    if not isinstance(item, dict):
        return None, None
    # Parquet fills in with null what only other rows have.
    role, content = (item[one] if item.get(one) is not None else item.get(other) for one, other in (("role", "from"), ("content", "value")))
    if isinstance(content, list):
        parts: list[Any] = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else None
    known = _ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    return known, content if isinstance(content, str) else None


def _order_problem(turns: Sequence[tuple[str, str]]) -> str | None:
    if not turns:
        return "no answer of the assistant"
    before = None
    for number, (role, _) in enumerate(turns, start=1):
        if role == "system" and number > 1:
            return f"turn {number} is a system prompt, which only the first may be"
        if role == before and role != "tool":
            return f"turns {number - 1} and {number} are both by the {role}"
        if role == "assistant" and before in (None, "system"):
            return "it begins with an answer"
        before = role
    return None
