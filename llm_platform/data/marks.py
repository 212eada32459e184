"""Marked text: a rendered row as one string that also says what is text, what is a special token, and where answers are.

    SPECIAL 123           the special token of this id
    FIRST text END        a text at the very start of a row
    AFTER text END        a text behind a special token
    MORE text END         a text that continues another, across the border of an answer
    ANSWER ... ANSWER_END an answer, with the special tokens that end it

The marks are Unicode noncharacters. Where contents have some of them, `escape` hides those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

SPECIAL, FIRST, AFTER, MORE, END, ANSWER, ANSWER_END = "\ufdd0\ufdd1\ufdd2\ufdd3\ufdd7\ufdd8\ufdd9"
WHOLE = {FIRST: "\ufdd4", AFTER: "\ufdd5", MORE: "\ufdd6"}
"""The same marks for a text that is tokenised as a whole, not word by word."""
BREAK, ESCAPE = "\ufdde\ufddf"
RESERVED = "[\ufdd0-\ufddf]"
WHITE_SPACE = (
    "\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
"""What a special token with the flag lstrip or rstrip takes with it."""

_ESCAPES = {chr(code): f"{ESCAPE}{chr(ord('A') + code - 0xFDD0)}" for code in range(0xFDD0, 0xFDE0)}
_BACK = {escaped: mark for mark, escaped in _ESCAPES.items()}


def escape(text: str) -> str:
    """A content whose noncharacters cannot be taken for marks."""
    return re.sub(RESERVED, lambda found: _ESCAPES[found[0]], text)


def unescape(text: str) -> str:
    """The content that `escape` hid."""
    return re.sub(f"{ESCAPE}[A-P]", lambda found: _BACK[found[0]], text) if ESCAPE in text else text


@dataclass(frozen=True)
class Special:
    """A special token, and whether it takes the white space before and behind it."""

    id: int
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True)
class Slot:
    """Where a content goes, by its number; `start` and `end` are the characters that are stripped from it there."""

    number: int
    start: str = ""
    end: str = ""


Part = str | Slot
Section = Special | list[Part]
"""A special token, or the parts of a text between two."""


@dataclass(frozen=True)
class Specials:
    """The special tokens of a tokenizer by their text, and the two that every row needs."""

    tokens: dict[str, Special]
    bos_id: int | None
    eos_id: int

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """Finds the special tokens that are written out in a text, the longest first; None if there are none."""
        texts = sorted((text for text in self.tokens if text), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, texts))})") if texts else None

    def broken(self, text: str) -> str:
        """A content in which no special token is found, until `lay_out` mends it."""
        return self.pattern.sub(lambda found: f"{found[0][0]}{BREAK}{found[0][1:]}", text) if self.pattern else text

    def sections(self, parts: Sequence[Part]) -> list[Section]:
        """The parts between the special tokens that are written out in them; what a flag strips is gone."""
        found: list[Section] = []
        for section in self._split(parts):
            if isinstance(section, Special):
                if section.lstrip and found and isinstance(found[-1], list):
                    found[-1] = _stripped(found[-1], end=True)
                found.append(section)
            else:
                found.append(section)
        return found

    def _split(self, parts: Sequence[Part]) -> Iterator[Section]:
        text: list[Part] = []
        for part in parts:
            if isinstance(part, Slot) or self.pattern is None:
                text.append(part)
                continue
            for number, piece in enumerate(self.pattern.split(part)):
                if number % 2:
                    yield text
                    yield self.tokens[piece]
                    text = []
                elif piece:
                    text.append(piece)
        yield text


def lay_out(segments: Sequence[Sequence[Part]], specials: Specials) -> list[Part]:
    """Marked text from segments that are in turn what comes before an answer and an answer.

    The row begins with the BOS token, if the model uses one, and ends with the EOS token, each added unless it is written there.
    """
    laid_out = [specials.sections(segment) for segment in segments]
    begin = next((section for sections in laid_out for section in sections if section), [])
    end: Section = []
    out: list[Part] = [] if specials.bos_id is None or _is(begin, specials.bos_id) else [f"{SPECIAL}{specials.bos_id}"]
    mark, eats = FIRST, False
    for number, sections in enumerate(laid_out):
        out += [ANSWER] * (number % 2)
        for section in sections:
            if isinstance(section, Special):
                out.append(f"{SPECIAL}{section.id}")
                mark, eats, end = AFTER, section.rstrip, section
            elif text := _stripped(section, start=True) if eats else section:
                out += [mark, *(part.replace(BREAK, "") if isinstance(part, str) else part for part in text), END]
                mark, eats, end = MORE, False, text
        if number == len(segments) - 1 and not _is(end, specials.eos_id):
            out.append(f"{SPECIAL}{specials.eos_id}")
        out += [ANSWER_END] * (number % 2)
    return _joined(out)


def _is(section: Section, number: int) -> bool:
    return isinstance(section, Special) and section.id == number


def _stripped(parts: list[Part], *, start: bool = False, end: bool = False) -> list[Part]:
    """The parts of a text without the white space at its start or end. A content is stripped where it is put in."""
    found = list(parts)
    place = 0 if start else -1
    while found:
        part = found[place]
        if isinstance(part, Slot):
            found[place] = Slot(part.number, part.start or start * WHITE_SPACE, part.end or end * WHITE_SPACE)
            break
        found[place] = part.lstrip(WHITE_SPACE) if start else part.rstrip(WHITE_SPACE)
        if found[place]:
            break
        del found[place]
    return found


def _joined(parts: Sequence[Part]) -> list[Part]:
    """The same with neighbouring texts put together."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found
