"""What counts as the same answer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llm_platform.evaluation.score import is_correct, is_exact, label_of, labels_of, normalise, numeric_match, rouge_l, token_f1


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


def test_exact_is_equal_but_for_the_ends() -> None:
    assert is_exact(" Blue.\n", "Blue.")
    assert not is_exact("blue.", "Blue.") and is_correct("blue.", "Blue")


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("the cat sat on the mat", "the cat lay on the mat", 5 / 6),
        ("c b a", "a b c", 1 / 3),
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("gunman the killed police", "police killed the gunman", 1 / 4),
        ("A, b!", "a b", 1.0),
        ("a a b", "a b b", 2 / 3),
        ("", "y", 0.0),
        ("", "...", 1.0),
        (" ".join(map(str, range(200))), " ".join(map(str, range(100, 300))), 0.5),
    ],
)
def test_rouge_l(answer: str, reference: str, expected: float) -> None:
    assert rouge_l(answer, reference) == rouge_l(reference, answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("It is 42.", "6 * 7 = 42", True),
        ("1,200.50 $", "1200.5", True),
        ("first 3, then 4", "3", False),
        ("-5", "5", False),
        ("no idea", "7", False),
        ("12%", "about 12 %", True),
        ("3.5", "35", False),
        ("7", "7 days", None),
        ("w7", "w7", None),
        ("blue", "blue", None),
    ],
)
def test_numbers(answer: str, reference: str, expected: bool | None) -> None:
    assert numeric_match(answer, reference) is expected


def test_what_labels_are() -> None:
    assert labels_of(["Billing", "refund", "billing.", "Refund"]) == ["billing", "refund"]
    assert labels_of(["billing"] * 4) is None, "one is none to choose from"
    assert labels_of(["a", "b", "c", "a"]) is None, "too few rows of each"
    assert labels_of(["a b c d e f", "x"] * 4) is None, "a sentence"
    assert labels_of([str(number) for number in range(51)] * 4) is None, "too many"
    assert labels_of(["", "x"] * 4) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Refund.", "refund"),
        ("Category: billing", "billing"),
        ("refund request", "refund request"),
        ("It is a refund request!", "refund request"),
        ("billing or refund", None),
        ("refunds", None),
        ("", None),
    ],
)
def test_the_label_that_an_answer_names(answer: str, expected: str | None) -> None:
    assert label_of(answer, ["billing", "refund", "refund request"]) == expected


def test_scoring_needs_no_torch() -> None:
    code = "import sys, llm_platform.evaluation.compare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
