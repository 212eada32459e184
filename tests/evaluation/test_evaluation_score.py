"""What counts as the same answer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llm_platform.evaluation.score import is_correct, normalise, token_f1


@pytest.mark.parametrize(
    ("text", "expected"), [(" Blue. ", "blue"), ("The\n SKY!", "the sky"), ("'3.5'", "3.5"), ("STRASSE", "strasse"), ("...", "")]
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_correct_is_equal_after_normalisation_and_nothing_less() -> None:
    assert is_correct("Straße ", "STRASSE")
    assert not is_correct("blue sky", "blue")
    assert not is_correct("3.5", "35")


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("a b c", "a b c", 1.0),
        ("a b", "a c", 0.5),
        ("c b a", "a b c", 1.0),
        ("a a a a", "a", 0.4),
        ("x", "y", 0.0),
        ("", "y", 0.0),
        ("x", "", 0.0),
        ("", "", 1.0),
        ("The sky, blue", "blue", 0.5),
    ],
)
def test_token_f1(answer: str, reference: str, expected: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(expected)


def test_scoring_needs_no_torch() -> None:
    code = "import sys, llm_platform.evaluation.score; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
