"""How a model was asked in training, in the forms in which exports carry it: a chat template in Jinja, and Ollama's Modelfile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_platform.data.render import Template, run_sandboxed
from llm_platform.data.tokenize import PromptTokenizer
from llm_platform.specs import PreprocessingConfig

Conversation = list[dict[str, str]]

_SYSTEM, _USER, _NEXT, _ANSWER = "systemtext", "usertext", "nexttext", "answertext"
"""Stand for contents in a rendered template; plain words, which no template changes."""


@dataclass(frozen=True)
class Prompting:
    """The template of training. Texts are without a BOS token at their start, which every runtime puts there by itself."""

    chat_template: str | None
    """Over `messages`; None for a template of instruction and input, which is none for conversations."""
    samples: list[tuple[Conversation, str]]
    """Conversations, and what is written for them up to the next answer."""
    system_prompt: str | None
    bos: str
    head: str
    """Before the first answer, with `usertext` where the user's text stands."""
    head_with_system: str | None
    """The same with `systemtext`; None if the template has no place for it."""
    middle: str | None
    """Between an answer and the next one, with `nexttext`; None if there is no second turn."""
    end: str
    """Behind `answertext`, with what stands before it."""

    @classmethod
    def of(cls, config: PreprocessingConfig, tokenizer_folder: Path) -> Prompting:
        """Raises InvalidConfig if the template cannot be used with this tokenizer, which training would have said."""
        tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
        template = Template.load(config, tokenizer)
        bos = tokenizer.special_texts.get("bos_token", "")
        system: Conversation = [{"role": "system", "content": _SYSTEM}]
        turn: Conversation = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
        more: Conversation = [{"role": "user", "content": _NEXT}, {"role": "assistant", "content": _ANSWER}]
        if not template.chat:
            plain, with_system = _rendered(
                template, [{"instruction": _USER, "input": "", "system": ""}, {"instruction": _USER, "input": "", "system": _SYSTEM}]
            )
            end = _ANSWER + tokenizer.special_texts.get("eos_token", "")
            named = with_system[0] if with_system and _SYSTEM in with_system[0] else None
            return cls(None, [], config.system_prompt, bos, plain[0] if plain else _USER, named, None, end)
        conversations = [turn, [*system, *turn], [*turn, *more]]
        rendered = [_without(bos, texts) for texts in _rendered(template, conversations)]
        one, with_system, two = rendered
        assert one is not None, "a template without a single turn cannot have been trained on"
        return cls(
            chat_template=template.source if template.name == "tokenizer" else _with_tokens(template),
            samples=[
                (conversation[:-1], "".join(texts[:-1]))
                for conversation, texts in zip(conversations, rendered, strict=True)
                if texts is not None
            ],
            system_prompt=config.system_prompt,
            bos=bos,
            head=one[0],
            head_with_system=with_system[0] if with_system is not None else None,
            middle=two[2] if two is not None else None,
            end=one[1],
        )

    def write_into(self, folder: Path) -> None:
        """Makes it the chat template of the tokenizer in a folder, or leaves that without one."""
        settings = folder / "tokenizer_config.json"
        known: dict[str, Any] = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
        if known.pop("chat_template", None) is not None:
            settings.write_text(json.dumps(known, indent=2) + "\n", "utf-8")
        if self.chat_template is None:
            (folder / "chat_template.jinja").unlink(missing_ok=True)
        else:
            (folder / "chat_template.jinja").write_text(self.chat_template, "utf-8")

    def modelfile(self, weights: str, stops: Sequence[str]) -> str:
        """Ollama's Modelfile for a .gguf file beside it. `stops` are the texts of the tokens that end an answer."""
        marks = [*stops, self.end.partition(_ANSWER)[2].strip()]
        lines = [f"FROM ./{weights}", f'TEMPLATE """{self._go_template()}"""']
        if self.system_prompt is not None and '"""' in self.system_prompt:
            lines.append("# The system prompt of training has three quotes in a row, which a Modelfile cannot hold; set it by hand.")
        elif self.system_prompt is not None:
            lines.append(f'SYSTEM """{self.system_prompt}"""')
        lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in dict.fromkeys(marks) if stop]
        lines.append("PARAMETER temperature 0")
        return "\n".join(lines) + "\n"

    def _go_template(self) -> str:
        head = _go(self.head)
        if self.head_with_system is not None:
            head = f"{{{{ if $.System }}}}{_go(self.head_with_system)}{{{{ else }}}}{head}{{{{ end }}}}"
        if self.middle is None:
            return head.replace(".Content", ".Prompt") + "{{ .Response }}"
        first = f"{{{{ if $first }}}}{head}{{{{ $first = false }}}}{{{{ else }}}}{_go(self.middle)}{{{{ end }}}}"
        turns = f'{{{{ if eq .Role "user" }}}}{first}{{{{ else if eq .Role "assistant" }}}}{_go(self.end)}{{{{ end }}}}'
        return f"{{{{ $first := true }}}}{{{{ range .Messages }}}}{turns}{{{{ end }}}}"


def _rendered(template: Template, jobs: Sequence[Any]) -> list[list[str] | None]:
    """Per conversation its segments, see sandbox.py; None where the template has no place for it."""
    found = run_sandboxed(template.source, jobs, chat=template.chat, variables=template.tokens, what="The chat template")
    return [done.get("texts") for done in found]


def _without(bos: str, texts: list[str] | None) -> list[str] | None:
    return texts if texts is None or not bos else [texts[0].removeprefix(bos), *texts[1:]]


def _with_tokens(template: Template) -> str:
    """The template with the texts of its tokens in it: runtimes know them by other files, or not at all."""
    known = {name: json.dumps(text, ensure_ascii=False) for name, text in template.tokens.items() if name in ("bos_token", "eos_token")}
    return "".join(f"{{%- set {name} = {text} -%}}\n" for name, text in known.items()) + template.source


def _go(text: str) -> str:
    """As part of a Go template in a Modelfile's triple quotes."""
    text = text.replace("{{", '{{ "{{" }}').replace('"""', '{{ "\\"\\"\\"" }}')
    for place, field in ((_SYSTEM, "$.System"), (_USER, ".Content"), (_NEXT, ".Content"), (_ANSWER, ".Content")):
        text = text.replace(place, f"{{{{ {field} }}}}")
    return text
