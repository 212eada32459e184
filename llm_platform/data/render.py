"""Rows as the text of a prompt template: where each answer begins and ends in it is known to the letter.

A template renders a conversation twice per answer: up to the answer, as a model is asked for it, and with it. What the second
has more is the answer with what ends a turn; white space behind that belongs to the next turn. The built-in templates are
rendered once per shape of a conversation, with placeholders for its contents; all others row by row, in a process of its own.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateError

from llm_platform.data import sandbox
from llm_platform.data.marks import BREAK, RESERVED, Part, Slot, Specials, escape, lay_out, unescape
from llm_platform.data.turns import Turn, conversations, groups, without_end
from llm_platform.errors import DatasetError, InvalidConfig
from llm_platform.specs import PreprocessingConfig

if TYPE_CHECKING:
    from llm_platform.data.tokenize import PromptTokenizer

_FOLDER = Path(__file__).parent / "templates"
_CUSTOM, _OWN = "template_source", "The base model's chat template"
_PROMPT_NAMES = {"instruction", "input", "system"}
_TOKEN_NAMES = {"bos_token", "eos_token", "pad_token", "unk_token"}
_ALWAYS = {*_TOKEN_NAMES, "raise_exception", "strftime_now", "range", "dict", "lipsum", "cycler", "joiner", "namespace"}
_CHARACTERS = 1_000_000
"""What one rendering may write beyond its contents."""

_MARKS = re.compile(f"[{RESERVED[1]}-\ufddd]")
_MARKED = {"error": "it writes noncharacters (U+FDD0 to U+FDDD), which stand for other things here"}

_PAD, _OPEN, _CLOSE = "\u2003", "\ufdda", "\ufddb"
_PLACE = re.compile(f"({_PAD}?){_OPEN}([0-9]+){_CLOSE}({_PAD}?)")
_PYTHON_SPACE = "".join(character for character in map(chr, range(0x3001)) if character.isspace())
"""What Jinja's trim strips."""


@dataclass(frozen=True)
class _Shape:
    """`marked` and `prompt` are the parts of a marked row and of the text before its last answer."""

    marked: list[Part]
    prompt: list[Part]


@dataclass(frozen=True)
class Template:
    """A prompt template for one tokenizer. `chat` says that it is over `messages`, else it is over instruction, input and system."""

    name: str
    source: str
    chat: bool
    specials: Specials
    tokens: dict[str, str]
    """bos_token, eos_token and the like, as templates see them."""
    _shapes: dict[tuple[Turn, ...], _Shape] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(cls, config: PreprocessingConfig, tokenizer: PromptTokenizer | None) -> Template:
        """The template of `config`. Raises InvalidConfig if it cannot be used, or the tokenizer has none of its own.

        Without a tokenizer the built-in templates and a custom one give their texts, with no special token in them.
        """
        tokens = {} if tokenizer is None else tokenizer.special_texts
        specials = Specials({}, None, -1) if tokenizer is None else tokenizer.specials
        if config.template == "tokenizer":
            source = None if tokenizer is None else tokenizer.chat_template
            if source is None:
                raise _invalid("The base model's tokenizer has no chat template of its own; name one of the built-in templates", _OWN)
            _inspect(source, _OWN)
            return cls(config.template, source, True, specials, tokens)
        if config.template == "custom":
            source = config.template_source or ""
            return cls(config.template, source, _check_custom(source), specials, tokens)
        written = {name: tokens.get(name, "") for name in ("bos_token", "eos_token")}
        if specials.bos_id is None:
            written["bos_token"] = ""
        return cls(config.template, _built_in(config.template), True, specials, written)

    def mark(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The columns `marked` (see marks.py), `prompt` and `completion` for rows in one of the two normal forms, in order.

        `prompt` is the text before the last answer, without the BOS token; `completion` is the last answer's content. Raises
        DatasetError, with row numbers from 1, for rows that the template cannot render.
        """
        frame = without_end(frame, self.tokens.get("eos_token", ""))
        found = self._by_shape(frame) if self.name not in ("tokenizer", "custom") else self._row_by_row(frame)
        last = pl.col("contents").list.last() if "roles" in frame.columns else pl.col("output").fill_null("")
        return found.with_columns(frame.select(last.alias("completion"))["completion"])

    def texts(self, frame: pl.DataFrame) -> pl.DataFrame:
        """`prompt` and `completion` alone."""
        return self.mark(frame).select("prompt", "completion")

    # Built-in templates: one rendering per shape.

    def _by_shape(self, frame: pl.DataFrame) -> pl.DataFrame:
        parts: list[pl.DataFrame] = []
        for shape, places, contents in groups(frame, self.name):
            if shape not in self._shapes:
                self._shapes[shape] = self._render_shape(shape, frame["row"].gather(places))
            made = self._shapes[shape]
            marred = [column for column in contents if column.str.contains(RESERVED).any()]
            hidden = contents.with_columns(column.map_elements(escape, pl.String) for column in marred)
            marked = hidden.with_columns(marked=_concat(made.marked))["marked"]
            prompt = contents.with_columns(prompt=_concat(made.prompt))["prompt"]
            parts.append(pl.DataFrame([places, marked, prompt]))
        empty = pl.DataFrame(schema={"place": pl.UInt32, "marked": pl.String, "prompt": pl.String})
        whole = pl.concat([empty, *parts]) if len(parts) != 1 else parts[0]
        return (whole if len(parts) == 1 else whole.sort("place")).drop("place")

    def _render_shape(self, shape: tuple[Turn, ...], rows: pl.Series) -> _Shape:
        messages: list[dict[str, str]] = []
        slots = 0
        for role, has_content, has_input in shape:
            message = {"role": role}
            for name, given in (("content", has_content), ("input", has_input)):
                message[name] = f"{_PAD}{_OPEN}{slots}{_CLOSE}{_PAD}" if given else ""
                slots += given
            messages.append(message)
        try:
            segments = [_parts(text) for text in sandbox.segments(_compiled(self.source), messages, self.tokens)]
        except TemplateError as error:
            raise self._unrenderable([(row, str(error)) for row in rows.head(10).to_list()], len(rows)) from error
        prompt = [part for segment in segments[:-1] for part in segment]
        bos = self.tokens["bos_token"]
        if bos and prompt and isinstance(prompt[0], str):
            prompt[0] = prompt[0].removeprefix(bos)
        return _Shape(lay_out(segments, self.specials), prompt)

    # A user's or a model's template: every row for itself.

    def _row_by_row(self, frame: pl.DataFrame) -> pl.DataFrame:
        rows, talks = frame["row"].to_list(), conversations(frame)
        jobs = [self._job(messages, row) for row, messages in zip(rows, talks, strict=True)]
        found = run_sandboxed(self.source, jobs, chat=self.chat, variables=self.tokens, what=_CUSTOM if self.name == "custom" else _OWN)
        wrong = [(row, done["error"]) for row, done in zip(rows, found, strict=True) if "error" in done]
        if wrong:
            raise self._unrenderable(wrong[:10], len(wrong))
        marked: list[str] = []
        prompts: list[str] = []
        for done, messages in zip(found, talks, strict=True):
            segments = done["texts"] if self.chat else [*done["texts"], self._hidden(messages[-1]["content"])]
            marked.append("".join(map(str, lay_out([[segment] for segment in segments], self.specials))))
            prompt = "".join(segments[:-1]).removeprefix(self.tokens.get("bos_token", ""))
            prompts.append(unescape(prompt.replace(BREAK, "")))
        return pl.DataFrame({"marked": marked, "prompt": prompts}, schema={"marked": pl.String, "prompt": pl.String})

    def _job(self, messages: list[dict[str, Any]], row: int) -> Any:
        if self.chat:
            return [{"role": turn["role"], "content": self._hidden(turn["content"])} for turn in messages]
        by_role = {turn["role"]: turn for turn in messages}
        if len(by_role) != len(messages) or "tool" in by_role:
            problem = "template_source is over instruction and input, which are one prompt; write it over messages for conversations"
            raise self._unrenderable([(row, problem)], 1)
        user = by_role["user"]
        values = {
            "system": by_role.get("system", {}).get("content", ""),
            "instruction": user.get("instruction", user["content"]),
            "input": user.get("input", ""),
        }
        return {name: self._hidden(value) for name, value in values.items()}

    def _hidden(self, content: str) -> str:
        return self.specials.broken(escape(content))

    def _unrenderable(self, wrong: Sequence[tuple[int, str]], count: int) -> DatasetError:
        """The error for rows (from 0, why)."""
        row, problem = wrong[0]
        return DatasetError(
            f"Template '{self.name}' cannot render {count:,} rows, such as row {row + 1:,}: {problem}",
            errors=[{"rule": "template", "row": row + 1, "message": problem} for row, problem in wrong],
            rows=[row + 1 for row, _ in wrong],
        )


def check_template(config: PreprocessingConfig) -> None:
    """Raises InvalidConfig if `template_source` is no template that could render rows: by its syntax, by what it reaches for, by the
    time or memory that it takes, or because it loses the answer. Needs no tokenizer.

    A source that reads `messages` is a chat template, as tokenizers have them; else it is the text of a prompt, made of
    `instruction`, `input` and `system`.
    """
    if config.template == "custom":
        _check_custom(config.template_source or "")


def _check_custom(source: str) -> bool:
    """Whether it is a chat template."""
    read = _inspect(source, _CUSTOM)
    chat = "messages" in read
    unknown = sorted(read - _PROMPT_NAMES - _ALWAYS)
    if not chat and (unknown or not read & _PROMPT_NAMES):
        problem = f"it reads {', '.join(unknown)}, which it is not given" if unknown else "it uses no part of a row"
        raise _invalid(f"template_source: {problem}; use messages, or instruction, input and system", _CUSTOM)
    names = {"bos_token": "", "eos_token": ""}
    sample = [{"role": "user", "content": "sample question"}, {"role": "assistant", "content": "sample answer"}]
    job: Any = sample if chat else {"instruction": "sample question", "input": "", "system": ""}
    [done] = run_sandboxed(source, [job], chat=chat, variables=names, what=_CUSTOM)
    if "error" in done:
        raise _invalid(f"template_source cannot be used: {done['error']}", _CUSTOM)
    return chat


def run_sandboxed(source: str, jobs: Sequence[Any], *, chat: bool, variables: dict[str, str], what: str) -> list[dict[str, Any]]:
    """Per job its `texts` or its `error`, from a process of its own. Raises InvalidConfig if the source as a whole is refused, or needs
    more than 5 s of processor time and some milliseconds per turn."""
    given = json.dumps(jobs)
    seconds = 5 + 0.005 * sum(map(len, jobs)) + len(given) / 1e6
    request = {"source": source, "variables": variables, "chat": chat, "characters": _CHARACTERS + 4 * len(given), "seconds": seconds}
    found = _ask(f'{json.dumps(request)[:-1]}, "jobs": {given}}}', what, seconds)["results"]
    return [_MARKED if any(_MARKS.search(text) for text in done.get("texts", ())) else done for done in found]


def _inspect(source: str, what: str) -> set[str]:
    """The variables that a template reads. Raises InvalidConfig if it cannot be compiled."""
    request = {"source": source, "variables": {}, "chat": True, "characters": 0, "seconds": 2.0, "jobs": []}
    return set(_ask(json.dumps(request), what, 2.0)["variables"])


def _ask(request: str, what: str, seconds: float) -> dict[str, Any]:
    """Without environment variables and site paths of this process, so that there is nothing to be found there."""
    command = [sys.executable, "-I", sandbox.__file__]
    try:
        done = subprocess.run(command, input=request.encode(), capture_output=True, env={}, timeout=10 * math.ceil(seconds) + 60)
    except subprocess.TimeoutExpired as error:
        raise _invalid(f"{what} takes too long", what) from error
    if done.returncode != 0:
        reason = "takes too long" if done.returncode < 0 else "cannot be rendered: it needs too much memory"
        raise _invalid(f"{what} {reason}", what)
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise _invalid(f"{what} is no template that can be used: {answer['error']}", what)
    return answer


def _invalid(message: str, what: str) -> InvalidConfig:
    field = _CUSTOM if what == _CUSTOM else "template"
    return InvalidConfig(message, errors=[{"field": field, "message": message}])


@cache
def _built_in(name: str) -> str:
    return (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


@cache
def _compiled(source: str) -> JinjaTemplate:
    return sandbox.environment().from_string(source)


def _parts(text: str) -> list[Part]:
    """A text with placeholders as literals and slots. A placeholder that has lost the space around it was trimmed."""
    found: list[Part] = []
    done = 0
    for place in _PLACE.finditer(text):
        before, number, behind = place.groups()
        found.append(text[done : place.start()])
        found.append(Slot(int(number), "" if before else _PYTHON_SPACE, "" if behind else _PYTHON_SPACE))
        done = place.end()
    return [part for part in [*found, text[done:]] if part != ""]


def _concat(parts: Sequence[Part]) -> pl.Expr:
    """Contents are the columns "0", "1", and so on."""
    return pl.concat_str([pl.lit(part) if isinstance(part, str) else _slot(part) for part in parts] or [pl.lit("")])


def _slot(slot: Slot) -> pl.Expr:
    found = pl.col(str(slot.number))
    if slot.start:
        found = found.str.strip_chars_start(slot.start)
    return found.str.strip_chars_end(slot.end) if slot.end else found
