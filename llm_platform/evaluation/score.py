"""Scores of generated answers against references. Needs no torch."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Sequence
from decimal import Decimal

MOST_LABELS = 50
LABEL_WORDS = 5
ROWS_PER_LABEL = 2

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w|[.,]\d)")
_WORD = re.compile(r"[^\W_]+")
_AFTER_A_NUMBER = re.compile(r"[\s%°€$£.)!]*")


def normalise(text: str) -> str:
    """Case folded, white space collapsed, punctuation at the ends stripped: ` Blue. ` and `blue` are the same answer."""
    return " ".join(text.casefold().split()).strip(string.punctuation + " ")


def is_exact(answer: str, reference: str) -> bool:
    """Equal but for white space at the ends."""
    return answer.strip() == reference.strip()


def is_correct(answer: str, reference: str) -> bool:
    return normalise(answer) == normalise(reference)


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words of both, counted with repetition (as SQuAD does). Two empty texts agree."""
    said, wanted = normalise(answer).split(), normalise(reference).split()
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1 over words, without stemming: how much of both is the longest sequence of words that both have in one order."""
    said, wanted = _WORD.findall(answer.casefold()), _WORD.findall(reference.casefold())
    if not said or not wanted:
        return float(said == wanted)
    return 2 * _longest_common(said, wanted) / (len(said) + len(wanted))


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time as the bits of one integer (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for index, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(one)) - 1
    free = full
    for word in other:
        taken = free & places.get(word, 0)
        free = ((free + taken) | (free - taken)) & full
    return len(one) - free.bit_count()


def numeric_match(answer: str, reference: str) -> bool | None:
    """Whether the last number of the answer is the one that the reference ends with; None if the reference ends with no number."""
    wanted = _last_number(reference, at_the_end=True)
    return None if wanted is None else _last_number(answer, at_the_end=False) == wanted


def _last_number(text: str, *, at_the_end: bool) -> Decimal | None:
    found = list(_NUMBER.finditer(text))
    if not found or (at_the_end and not _AFTER_A_NUMBER.fullmatch(text, found[-1].end())):
        return None
    return Decimal(found[-1].group().replace(",", ""))


def labels_of(references: Sequence[str]) -> list[str] | None:
    """The distinct normalised references in order, if they are labels: few, short, and on average each on several rows. Else None."""
    labels = sorted({normalise(reference) for reference in references})
    few = 2 <= len(labels) <= MOST_LABELS and len(references) >= ROWS_PER_LABEL * len(labels)
    return labels if few and all(0 < len(label.split()) <= LABEL_WORDS for label in labels) else None


def label_of(answer: str, labels: Collection[str]) -> str | None:
    """The label that an answer names: it is one, or one alone of them occurs in it as whole words. None for none or several.

    A label within a longer one that occurs too (`refund` in `refund request`) does not count.
    """
    text = normalise(answer)
    if text in labels:
        return text
    found = [label for label in labels if _occurs(label, text)]
    longest = [label for label in found if not any(label != other and _occurs(label, other) for other in found)]
    return longest[0] if len(longest) == 1 else None


def _occurs(words: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None
