"""Scores of generated answers against references. Needs no torch."""

from __future__ import annotations

import string
from collections import Counter


def normalise(text: str) -> str:
    """Case folded, white space collapsed, punctuation at the ends stripped: ` Blue. ` and `blue` are the same answer."""
    return " ".join(text.casefold().split()).strip(string.punctuation + " ")


def is_correct(answer: str, reference: str) -> bool:
    return normalise(answer) == normalise(reference)


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words of both, counted with repetition (as SQuAD does). Two empty texts agree."""
    said, wanted = normalise(answer).split(), normalise(reference).split()
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))
