"""Prompts and completions as token ids, with an exact mask of what is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl
from tokenizers import Tokenizer

from llm_platform.data.digest import digest
from llm_platform.data.marks import Special, Specials
from llm_platform.data.words import Cuts, Tokens, Words, cuts
from llm_platform.errors import InvalidConfig

_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")

Place = Literal["first", "after", "more"]
_PLACES: tuple[Place, ...] = get_args(Place)


def tokenizer_digest(folder: Path) -> str:
    """Digest of what decides the ids: tokenizer.json, the special tokens and the chat template. The same for any copy of the folder."""
    tokenizer = PromptTokenizer.from_folder(folder)
    special: dict[str, Any] = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    if tokenizer.chat_template is not None:
        special["chat_template"] = tokenizer.chat_template
    return digest(folder / "tokenizer.json", special)


@dataclass(frozen=True)
class PromptTokenizer:
    """A base model's tokenizer.

    What comes before an answer has exactly the ids that it has when it stands alone, so that generation sees the prefix that was
    trained. An answer is tokenised as the continuation of a text, without the space that SentencePiece puts before a text's start.
    Special tokens that are written out in a text are text, not tokens; only those of a template are tokens.
    """

    tokenizers: tuple[Tokenizer, Tokenizer, Tokenizer]
    """For a text at the start of a row, behind a special token, and behind another text."""
    specials: Specials
    special_texts: dict[str, str]
    """bos_token, eos_token, pad_token and unk_token, those that there are."""
    pad_id: int
    """The end-of-sequence token where the tokenizer has no padding token."""
    vocab_size: int
    chat_template: str | None
    cuts: Cuts
    added: list[str]

    @classmethod
    def from_folder(cls, folder: Path) -> PromptTokenizer:
        """Reads tokenizer.json, the special tokens and the chat template. Raises InvalidConfig if one of the first two is missing, or
        one of all is unreadable."""
        try:
            content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            first, after, more = (_plain(Tokenizer.from_str(json.dumps(_at(content, place)))) for place in _PLACES)
            may_cut = cuts(content)
        except FileNotFoundError:
            raise InvalidConfig("The base model has no tokenizer.json") from None
        except Exception as error:  # tokenizers raises bare Exception for a file that it cannot read
            raise InvalidConfig("The base model's tokenizer.json cannot be read") from error
        settings = [_json(folder / name) for name in _FILES[1:]]
        bos, eos, pad, unk = (_special(first, settings, kind) for kind in ("bos", "eos", "pad", "unk"))
        if eos is None:
            raise InvalidConfig("The base model's tokenizer has no end-of-sequence token")
        named = {"bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": unk}
        texts = {name: text for name, number in named.items() if number is not None and (text := first.id_to_token(number))}
        known = first.get_added_tokens_decoder()
        tokens = {texts[name]: Special(number) for name, number in named.items() if number is not None and name in texts}
        tokens |= {token.content: Special(number, token.lstrip, token.rstrip) for number, token in known.items() if token.special}
        return cls(
            tokenizers=(first, after, more),
            specials=Specials(tokens, None if settings[0].get("add_bos_token") is False else bos, eos),
            special_texts=texts,
            pad_id=eos if pad is None else pad,
            vocab_size=first.get_vocab_size(),
            chat_template=_chat_template(folder, settings[0]),
            cuts=may_cut,
            added=[token.content for token in known.values() if not token.special],
        )

    @property
    def bos_id(self) -> int | None:
        """None if the model's tokenizer has none, or is set not to add it."""
        return self.specials.bos_id

    @property
    def eos_id(self) -> int:
        return self.specials.eos_id

    def encode(self, marked: pl.Series) -> Tokens:
        """The tokens of marked rows, see marks.py. Words that were seen before are not tokenised again."""
        return self._words.encode(marked)

    @cached_property
    def _words(self) -> Words:
        return Words(self.tokenizers, self.cuts, self.added, self.specials)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self.tokenizers[0].decode(list(ids), skip_special_tokens=skip_special_tokens)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_words"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for tokenizer in self.tokenizers:
            _plain(tokenizer)


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer without what it does besides; pickling forgets the last."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _at(tokenizer: dict[str, Any], place: Place) -> dict[str, Any]:
    """A tokenizer's JSON for texts at this place, where fewer steps put a space before the start of a text. Nothing comes after it."""
    return tokenizer | {"post_processor": None} | {name: _step_at(tokenizer.get(name), place) for name in ("normalizer", "pre_tokenizer")}


def _step_at(step: dict[str, Any] | None, place: Place) -> dict[str, Any] | None:
    if step is None or place == "first":
        return step
    if step["type"] == "Prepend":
        return None if place == "more" else step
    if step["type"] == "Metaspace" and (place == "more" or step.get("prepend_scheme") == "first"):
        step = step | {"prepend_scheme": "never"}
    if "add_prefix_space" in step and place == "more":
        step = step | {"add_prefix_space": False}
    for name in ("normalizers", "pretokenizers"):
        if name in step:
            step = step | {name: [kept for item in step[name] if (kept := _step_at(item, place)) is not None]}
    return step


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """That of chat_template.jinja, which wins, or of tokenizer_config.json, which may have several by name."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise InvalidConfig("The base model's chat_template.jinja cannot be read") from error
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = next((item.get("template") for item in found if isinstance(item, dict) and item.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"The base model's {path.name} cannot be read") from error
    return found if isinstance(found, dict) else {}


def _special(tokenizer: Tokenizer, settings: Sequence[dict[str, Any]], kind: str) -> int | None:
    """The id of a special token by the first file that names it: as a text, as {"content": text}, or as an id (or several)."""
    for found in settings:
        token = found.get(f"{kind}_token")
        if isinstance(token, dict):
            token = token.get("content")
        number = tokenizer.token_to_id(token) if isinstance(token, str) else None
        if number is not None:
            return number
        number = found.get(f"{kind}_token_id")
        if isinstance(number, list) and number:
            number = number[0]
        if isinstance(number, int) and not isinstance(number, bool) and tokenizer.id_to_token(number) is not None:
            return number
    return None
