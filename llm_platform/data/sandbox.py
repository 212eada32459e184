"""Renders Jinja templates that nobody vouches for: a user's own, and the chat template that comes with a base model.

Run as a script, in a process of its own: `python -I sandbox.py`, a request on standard input and the answer on standard output,
both JSON. It imports nothing of the platform. Time, memory and the length of what is written are bounded: a template can neither
stop the caller nor fill its memory. Built-in templates are rendered by the same functions within the caller's process.

Request: `source`, `variables` (for every rendering), `chat` (true: over `messages`), `jobs` (each a conversation, or the variables
of one prompt), `seconds` (processor time for all), `characters` (most that one rendering may write). Answer: `error`, or
`variables` (those that the template reads) and `results`, per job `texts` (the segments of a conversation, or one prompt) or `error`.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, Undefined, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

RENDERING_SECONDS = 1.0
MEMORY = 512 * 2**20


class Generation(Extension):
    """`{% generation %}`, by which chat templates mark answers, renders its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Environment(ImmutableSandboxedEnvironment):
    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe")


class _Namespace(Namespace):
    """Without names that begin with an underscore, which could reach Python's internals."""

    def __init__(*args: Any, **attributes: Any) -> None:
        self, *rest = args
        found = dict(*rest, **attributes)
        for name in found:
            _public(name)
        Namespace.__init__(self, found)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        super().__setitem__(name, value)


def _public(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"the name {name!r} is unsafe")


def _make_dict(*args: Any, **items: Any) -> dict[Any, Any]:
    return dict(*args, **items)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment(chat: bool = True) -> ImmutableSandboxedEnvironment:
    """For chat templates the settings and names with which transformers renders them; else plain Jinja with strict names."""
    found = _Environment(
        trim_blocks=chat,
        lstrip_blocks=chat,
        keep_trailing_newline=not chat,
        undefined=Undefined if chat else StrictUndefined,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    found.filters["tojson"] = _tojson
    found.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_make_dict, namespace=_Namespace)
    return found


def segments(
    template: Template, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], characters: int | None = None
) -> list[str]:
    """What comes before each answer of a conversation, and the answer with what ends its turn, in turn.

    Each answer is rendered up to it, as a model is asked for it, and with it. White space behind what ends a turn belongs to the
    next one, and is left off at the end. Raises ValueError if a rendering does not begin with the one before it.
    """
    found: list[str] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            before, after = (
                _write(template, {**variables, "messages": messages[:end], "add_generation_prompt": prompt}, characters)
                for end, prompt in ((index, True), (index + 1, False))
            )
            if not before.startswith(done) and done.endswith(eos := variables.get("eos_token") or "\0"):
                found[-1], done = found[-1].removesuffix(eos), done.removesuffix(eos)  # some templates end every rendering with it
                found[-1], done = found[-1].rstrip(), done.rstrip()
            if not (before.startswith(done) and after.startswith(before)):
                raise ValueError(
                    "what it writes before an answer, with add_generation_prompt, is not how the conversation with that answer begins"
                )
            answer = _answer_in(after[len(before) :], message["content"])
            found += [before[len(done) :], answer]
            done = before + answer
    return found


def _answer_in(written: str, content: str) -> str:
    """What is written for an answer, without white space behind what ends its turn."""
    content = content if content in written else content.strip()
    if content not in written:
        raise ValueError("what it writes for an answer does not contain the answer")
    kept = written.rfind(content) + len(content)
    return written[:kept] + written[kept:].rstrip()


def _write(template: Template, variables: Mapping[str, Any], characters: int | None) -> str:
    if characters is None:
        return template.render(variables)
    parts: list[str] = []
    room = characters
    signal.setitimer(signal.ITIMER_PROF, RENDERING_SECONDS)
    try:
        for part in template.generate(variables):
            room -= len(part)
            if room < 0:
                raise OverflowError(f"it writes more than {characters:,} characters")
            parts.append(part)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    text = "".join(parts)
    text.encode()
    return text


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    chat: bool = request["chat"]
    surroundings = environment(chat)
    try:
        tree = surroundings.parse(request["source"])
        for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
            name = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", "")
            if isinstance(name, str) and name.startswith("__"):
                raise SecurityError(f"line {node.lineno}: access to attribute {name!r} is unsafe")
        read = sorted(meta.find_undeclared_variables(tree))
        template = surroundings.from_string(request["source"])
    except Exception as error:
        return {"error": _told(error)}
    return {"variables": read, "results": [_job(template, job, request) for job in request["jobs"]]}


def _job(template: Template, job: Any, request: dict[str, Any]) -> dict[str, Any]:
    try:
        if request["chat"]:
            return {"texts": segments(template, job, request["variables"], request["characters"])}
        return {"texts": [_write(template, {**request["variables"], **job}, request["characters"])]}
    except Exception as error:
        return {"error": _told(error)}


def _told(error: Exception) -> str:
    match error:
        case TemplateSyntaxError():
            return f"line {error.lineno}: {error.message}"
        case MemoryError():
            return "it needs too much memory"
        case RecursionError():
            return "it is nested too deeply, or calls itself without end"
        case UnicodeEncodeError():
            return "it writes text that is not valid Unicode"
        case _:
            return str(error)[:500] or type(error).__name__


def _too_long(*_: object) -> NoReturn:
    raise TimeoutError(f"it takes longer than {RENDERING_SECONDS:g} s")


def main() -> None:
    raw = sys.stdin.buffer.read()
    request = json.loads(raw)
    seconds = math.ceil(request["seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    memory = MEMORY + 16 * len(raw)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGPROF, _too_long)
    sys.stdout.write(json.dumps(_answer(request)))


if __name__ == "__main__":
    main()
