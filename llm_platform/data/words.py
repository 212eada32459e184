"""Marked text (see marks.py) as token ids, word by word: a word that was seen before is looked up, not tokenised again.

A text is cut before a single space that stands between two other characters, and behind a single line end. `cuts` says for which
tokenizers no token can span such a cut, so that the ids of the words are the ids of the text. For all others, and for texts with
added tokens that are not special, a text is one word.
"""

from __future__ import annotations

import itertools
import logging
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llm_platform.data.marks import AFTER, ANSWER, ANSWER_END, END, FIRST, MORE, SPECIAL, WHOLE, Specials, unescape

MOST_WORDS = 500_000
LONGEST_WORD = 64
"""Longer words are seldom seen again, and are not kept."""
TOGETHER = 32
"""New words that are tokenised as one text."""
CHECKED = 4
"""Rows of a call that are tokenised both ways."""

_LOG = logging.getLogger(__name__)
_VARIANTS = {FIRST: 0, WHOLE[FIRST]: 0, AFTER: 1, WHOLE[AFTER]: 1, MORE: 2, WHOLE[MORE]: 2}
_ENDS = (END, "\n")
_ANSWER_WORDS = (ANSWER, ANSWER_END)

Cuts = tuple[bool, bool]
"""Whether texts may be cut at spaces, and at line ends."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of N rows: row i has `ids[offsets[i]:offsets[i+1]]`. `answers` [A, 2] are the first token of each answer and the one
    behind its last, over all rows; row i has the answers `first[i]` to `first[i+1]`."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    answers: NDArray[np.int64]
    first: NDArray[np.int64]


@dataclass
class Words:
    """The tokenizers for a text at the start of a row, behind a special token, and behind another text; and the words seen."""

    tokenizers: Sequence[Tokenizer]
    cuts: Cuts
    added: list[str]
    """Added tokens that are not special: they are found in any text, and what is behind them counts as the start of a text."""
    specials: Specials
    _seen: dict[str, bytes] = field(default_factory=dict, repr=False)

    def encode(self, marked: pl.Series) -> Tokens:
        """The tokens of marked rows. May be called by several threads at once."""
        if not len(marked):
            return Tokens(np.empty(0, np.int32), np.zeros(1, np.int64), np.empty((0, 2), np.int64), np.zeros(1, np.int64))
        if not self.cuts[0]:
            return self._encode(_whole(marked))
        ready = marked
        if self.added:
            ready = pl.select(pl.when(marked.str.contains_any(self.added)).then(_whole(marked)).otherwise(marked)).to_series()
        found = self._encode(ready)
        if self._agrees(marked, found):
            return found
        _LOG.warning("Words and whole texts have different tokens with this tokenizer; texts are tokenised whole from now on")
        self.cuts = (False, False)
        return self._encode(_whole(marked))

    def _agrees(self, marked: pl.Series, found: Tokens) -> bool:
        places = np.unique(np.linspace(0, max(0, len(marked) - 1), CHECKED).astype(np.int64))[: len(marked)]
        whole = self._encode(_whole(marked.gather(places)))
        parts = [found.ids[found.offsets[place] : found.offsets[place + 1]] for place in places]
        return np.array_equal(np.concatenate([np.empty(0, dtype=np.int32), *parts]), whole.ids)

    def _encode(self, marked: pl.Series) -> Tokens:
        words = marked.str.extract_all(_pattern(self.cuts[1]))
        counts = words.list.len().to_numpy().astype(np.int64)
        coded: Any = words.explode().to_arrow().cast(pa.large_string()).dictionary_encode()
        different: list[str] = coded.dictionary.to_pylist()
        encoded = self._look_up(different)
        store = np.frombuffer(b"".join(encoded), dtype=np.int32)
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)) // 4
        starts = np.cumsum(lengths) - lengths
        codes = coded.indices.to_numpy()
        length = lengths[codes]
        ends = np.zeros(len(codes) + 1, dtype=np.int64)
        np.cumsum(length, out=ends[1:])
        places = np.repeat((starts[codes] - ends[:-1]).astype(np.int32), length)
        places += np.arange(ends[-1], dtype=np.int32)
        begins, stops = (np.flatnonzero(codes == different.index(mark)) for mark in _ANSWER_WORDS)
        words_before = np.concatenate([[0], np.cumsum(counts)])
        return Tokens(
            ids=store[places],
            offsets=ends[words_before],
            answers=np.stack([ends[begins], ends[stops]], axis=1),
            first=np.searchsorted(begins, words_before),
        )

    def _look_up(self, words: Sequence[str]) -> list[bytes]:
        """The ids of each word, four bytes each."""
        found: list[Any] = list(map(self._seen.get, words))
        new = [number for number, ids in enumerate(found) if ids is None]
        if len(self._seen) + len(new) > MOST_WORDS:
            self._seen = {}
        for number, ids in zip(new, self._tokenise([words[number] for number in new]), strict=True):
            found[number] = ids
            if len(words[number]) <= LONGEST_WORD:
                self._seen[words[number]] = ids
        return found

    def _tokenise(self, words: Sequence[str]) -> list[bytes]:
        made = [b""] * len(words)
        by_variant: tuple[list[int], ...] = ([], [], [])
        plain: list[int] = []
        for number, word in enumerate(words):
            if word[0] == " " and word[-1] not in _ENDS:
                plain.append(number)
            elif word[0] == SPECIAL:
                made[number] = _bytes([int(word[1:])])
            elif word not in _ANSWER_WORDS:
                by_variant[_VARIANTS.get(word[0], 2)].append(number)
        for tokenizer, numbers in zip(self.tokenizers, by_variant, strict=True):
            for number, ids in zip(numbers, self._alone([_text(words[number]) for number in numbers], tokenizer), strict=True):
                made[number] = ids
        for number, ids in zip(plain, self._together([_text(words[number]) for number in plain]), strict=True):
            made[number] = ids
        return made

    def _alone(self, texts: list[str], tokenizer: Tokenizer) -> list[bytes]:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [
            _bytes(encoding.ids if self._reserved.isdisjoint(encoding.ids) else self._in_parts(text, tokenizer))
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _together(self, texts: list[str]) -> list[bytes]:
        """For texts of which each begins with a space and ends otherwise: several are one text, which takes half the time."""
        groups = [texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER)]
        made: list[bytes] = []
        encodings = self.tokenizers[2].encode_batch(["".join(group) for group in groups], add_special_tokens=False)
        for group, encoding in zip(groups, encodings, strict=True):
            if not self._reserved.isdisjoint(encoding.ids):
                made += self._alone(group, self.tokenizers[2])
                continue
            ids = _bytes(encoding.ids)
            starts = np.array([start for start, _ in encoding.offsets], dtype=np.int64)
            ends = 4 * np.searchsorted(starts, np.cumsum(list(map(len, group))))
            made += [ids[start:end] for start, end in itertools.pairwise([0, *ends.tolist()])]
        return made

    @cached_property
    def _reserved(self) -> set[int]:
        return {token.id for token in self.specials.tokens.values()}

    def _in_parts(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """For Unigram, whose vocabulary has the special tokens, so that it makes them of a text unless their texts are divided."""
        found = [] if self.specials.pattern is None else [match.start() + 1 for match in self.specials.pattern.finditer(text)]
        parts = [text[start:end] for start, end in itertools.pairwise([0, *found, len(text)])]
        encoders = [tokenizer, *[self.tokenizers[2]] * len(found)]
        return [id for one, part in zip(encoders, parts, strict=True) for id in one.encode(part, add_special_tokens=False).ids]


def _bytes(ids: list[int]) -> bytes:
    return array("i", ids).tobytes()


def _text(word: str) -> str:
    return unescape((word[1:] if word[0] in _VARIANTS else word).removesuffix(END))


def _whole(marked: pl.Series) -> pl.Series:
    return marked.str.replace_many(list(WHOLE), list(WHOLE.values()))


def _pattern(at_line_ends: bool) -> str:
    """Takes marked text apart into words, special tokens and the marks of answers, and leaves nothing over."""
    space = r"\s\x1c-\x1f\x{180E}\x{200B}\x{FEFF}\x{2581}"  # also what only some libraries take for it, and SentencePiece's own
    marks = r"\x{FDD0}-\x{FDD9}"
    solid = f"[^{space}{marks}]"
    single, end = (r" \n", r"|\n") if at_line_ends else (" ", "")
    word = rf"{solid}+(?:(?:[{space}]{{2,}}|[{space}--[{single}]]){solid}+)*(?:[{space}]*{END}{end})?"
    whole = f"[{''.join(WHOLE.values())}][^{END}]*{END}"
    return f"{SPECIAL}[0-9]+|[{ANSWER}{ANSWER_END}]|{whole}|[{FIRST}{AFTER}{MORE}]?[{space}]*(?:{word}|{END})"


_SPLITS = {
    # GPT-2's, Llama 3's and Qwen's: each puts a single space in front of what is behind it, and a single line end behind what is
    # before it, or apart.
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def cuts(tokenizer: Mapping[str, Any]) -> Cuts:
    """Where texts may be cut for a tokenizer, by the content of its tokenizer.json."""
    normalizers, splits, model = _steps(tokenizer, "normalizer"), _steps(tokenizer, "pre_tokenizer"), tokenizer["model"]
    added = [token for token in tokenizer.get("added_tokens", ()) if not token.get("special")]
    if not all(map(_harmless, added)) or not all(map(_known, splits)) or model.get("dropout"):
        return False, False
    kinds = {step["type"] for step in splits}
    if any("Regex" in step.get("pattern", ()) or step.get("use_regex") for step in splits):
        found = model["type"] == "BPE" and kinds <= {"Split", "ByteLevel", "Digits"} and all(step["type"] == "NFC" for step in normalizers)
        return found, found
    replaced = [_SPACES for step in normalizers if _replaces(step) == _SPACES]
    metaspace = any(step["type"] == "Metaspace" and step["replacement"] == "▁" for step in splits)
    if "ByteLevel" in kinds or not (metaspace or replaced) or not all(map(_local, normalizers)):
        return False, False
    split = any(step.get("split", True) for step in splits if step["type"] == "Metaspace")
    if model["type"] == "Unigram":
        return split, False
    return _by_vocabulary(model, split) if model["type"] == "BPE" and not model.get("ignore_merges") else (False, False)


_SPACES = (" ", "▁")


def _harmless(token: Mapping[str, Any]) -> bool:
    """Whether an added token is in a text just where its letters are."""
    content: str = token["content"]
    return content.isascii() and not re.search(r"\s", content) and not any(token.get(flag) for flag in ("lstrip", "rstrip", "single_word"))


def _by_vocabulary(model: Mapping[str, Any], split: bool) -> Cuts:
    """For BPE over SentencePiece's spaces: a merge crosses a cut only if it makes a token that is in the vocabulary."""
    vocabulary = model["vocab"]
    if any(model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix")) or "▁" not in vocabulary:
        return False, False
    text = "\0".join(vocabulary)
    spaces = split or re.search("[^\0▁]▁", text) is None
    line_ends = re.search("\n[^\0\\s▁]", text) is None and (bool(model.get("byte_fallback")) or "\n" in vocabulary)
    return spaces, spaces and line_ends


def _steps(tokenizer: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    step = tokenizer.get(name)
    if step is None:
        return []
    inner = step.get("normalizers", step.get("pretokenizers"))
    return [step] if inner is None else [found for item in inner for found in _steps({name: item}, name)]


def _local(step: Mapping[str, Any]) -> bool:
    """Whether a normalizer treats the two sides of a cut as it treats the whole."""
    replaced = _replaces(step)
    return step["type"] in ("Prepend", "NFC") or replaced == _SPACES or (replaced is not None and replaced[0] == replaced[1])


def _replaces(step: Mapping[str, Any]) -> tuple[str, str] | None:
    return (step["pattern"].get("String", ""), step["content"]) if step["type"] == "Replace" else None


def _known(step: Mapping[str, Any]) -> bool:
    """Whether a pre-tokenizer is known to keep a single space with what is behind it."""
    match step["type"]:
        case "Split" if "Regex" in step["pattern"]:
            return step["pattern"]["Regex"] in _SPLITS and step["behavior"] == "Isolated" and not step["invert"]
        case "Split":
            return step["pattern"]["String"] == " "  # Gemma's, behind a normalizer that leaves no spaces
        case kind:
            return kind in ("ByteLevel", "Metaspace", "Digits")
