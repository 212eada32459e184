"""Which languages texts are in: a guess, by a model that is inside the package `py3langid`."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

CHARACTERS = 1_000
SURE = 0.5
"""Least probability; single words, numbers and code are below it."""
UNCLEAR = "und"

_loading = threading.Lock()


def languages(texts: Sequence[str]) -> dict[str, float]:
    """The share of the texts in each language (ISO 639-1), largest first; `und` stands for those too short or unclear to say."""
    with _loading:
        identifier = _identifier()
    counted: Counter[str] = Counter()
    for text in texts:
        language, probability = identifier.classify(text[:CHARACTERS])
        counted[language if probability >= SURE and language != "zxx" else UNCLEAR] += 1  # zxx: no language at all
    return {language: round(count / len(texts), 3) for language, count in counted.most_common()}


@cache
def _identifier() -> Any:
    """Takes half a second and 75 MB the first time, so not before it is needed."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
