"""Prompts and completions as token ids, with an exact mask of what is trained."""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llm_platform.data.digest import digest
from llm_platform.errors import InvalidConfig

_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")


@dataclass(frozen=True)
class TokenArrays:
    """Tokens of N rows: row i has `ids[offsets[i]:offsets[i+1]]`, of which those with a true `mask` are trained."""

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    offsets: NDArray[np.int64]


def tokenizer_digest(folder: Path) -> str:
    """Digest of what decides the ids: tokenizer.json and the special tokens. The same for any copy of the folder."""
    tokenizer = PromptTokenizer.from_folder(folder)
    special = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    return digest(folder / "tokenizer.json", special)


@dataclass(frozen=True)
class PromptTokenizer:
    """A base model's tokenizer.

    A prompt has exactly the ids that it has when it stands alone, so that generation sees the prefix that was trained. A
    completion is tokenised as the continuation of a text, without the space that SentencePiece puts before a text's start.
    Special tokens that are written out in a text are text, not tokens.
    """

    prompts: Tokenizer
    continuations: Tokenizer
    bos_id: int | None
    """None if the model's tokenizer has none, or is set not to add it."""
    eos_id: int
    pad_id: int
    """The end-of-sequence token where the tokenizer has no padding token."""
    eos_token: str
    vocab_size: int

    @classmethod
    def from_folder(cls, folder: Path) -> PromptTokenizer:
        """Reads tokenizer.json and the special tokens. Raises InvalidConfig if either is missing or unreadable."""
        path = folder / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
            prompts = Tokenizer.from_str(text)
            continuations = Tokenizer.from_str(json.dumps(_without_prefix(json.loads(text))))
        except FileNotFoundError:
            raise InvalidConfig("The base model has no tokenizer.json") from None
        except Exception as error:  # tokenizers raises bare Exception for a file that it cannot read
            raise InvalidConfig("The base model's tokenizer.json cannot be read") from error
        for tokenizer in (prompts, continuations):
            tokenizer.no_truncation()
            tokenizer.no_padding()
            tokenizer.encode_special_tokens = True
        settings = [_json(folder / name) for name in _FILES[1:]]
        bos, eos, pad = (_special(prompts, settings, kind) for kind in ("bos", "eos", "pad"))
        if eos is None:
            raise InvalidConfig("The base model's tokenizer has no end-of-sequence token")
        if settings[0].get("add_bos_token") is False:
            bos = None
        eos_token = prompts.id_to_token(eos)
        return cls(prompts, continuations, bos, eos, eos if pad is None else pad, eos_token or "", prompts.get_vocab_size())

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """The ids that generation starts from: BOS, where the model has one, and the prompt."""
        begin = [] if self.bos_id is None else [self.bos_id]
        return [begin + encoding.ids for encoding in self.prompts.encode_batch_fast(list(prompts), add_special_tokens=False)]

    def encode_arrays(self, prompts: Sequence[str], completions: Sequence[str]) -> TokenArrays:
        """The tokens of N rows: BOS and prompt with mask False, completion and EOS with mask True.

        An EOS that is written out at the end of a completion is not doubled.
        """
        texts = [self._without_eos(completion) for completion in completions]
        before = self.prompts.encode_batch_fast(list(prompts), add_special_tokens=False)
        after = self.continuations.encode_batch_fast(texts, add_special_tokens=False)
        begin = [] if self.bos_id is None else [self.bos_id]
        flat = array("i")
        lengths = np.empty((len(before), 2), dtype=np.int64)
        for index, (prompt, completion) in enumerate(zip(before, after, strict=True)):
            flat.extend(begin)
            flat.extend(prompt.ids)
            flat.extend(completion.ids)
            flat.append(self.eos_id)
            lengths[index] = len(begin) + len(prompt), len(completion) + 1
        mask = np.repeat(np.tile([False, True], len(before)), lengths.ravel())
        return TokenArrays(np.frombuffer(flat, dtype=np.int32), mask, np.concatenate([[0], np.cumsum(lengths.sum(axis=1))]))

    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> list[tuple[list[int], list[bool]]]:
        """(input_ids, loss_mask) of each row, as `encode_arrays` has them."""
        found = self.encode_arrays(prompts, completions)
        spans = itertools.pairwise(found.offsets.tolist())
        return [(found.ids[start:end].tolist(), found.mask[start:end].tolist()) for start, end in spans]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self.prompts.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def _without_eos(self, text: str) -> str:
        while self.eos_token and text.endswith(self.eos_token):
            text = text.removesuffix(self.eos_token)
        return text


def _without_prefix(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's JSON without the steps that put a space before the start of a text."""
    return tokenizer | {name: _continuing(tokenizer.get(name)) for name in ("normalizer", "pre_tokenizer")}


def _continuing(step: dict[str, Any] | None) -> dict[str, Any] | None:
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Metaspace":
        step = step | {"prepend_scheme": "never"}
    if "add_prefix_space" in step:
        step = step | {"add_prefix_space": False}
    for name in ("normalizers", "pretokenizers"):
        if name in step:
            step = step | {name: [kept for item in step[name] if (kept := _continuing(item)) is not None]}
    return step


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
