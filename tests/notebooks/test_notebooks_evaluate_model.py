"""The notebook `evaluate_model`: as it is committed, with its defaults, and on the files that an evaluation leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from llm_platform import notebooks
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings

NAME = "evaluate_model"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def run(settings: Settings, folder: Path, **parameters: notebooks.Value) -> tuple[str, str]:
    """(what it told, its HTML)."""
    reporter = ListReporter()
    done = notebooks.run(NAME, parameters, folder / "ran.ipynb", reporter, 120, settings)
    return "\n".join(message for level, message, _ in reporter.lines if level == "INFO"), done.html.read_text()


def evaluation(folder: Path, frame: pl.DataFrame, with_base: bool) -> dict[str, notebooks.Value]:
    frame.write_parquet(folder / "examples.parquet")
    tuned = {"accuracy": 0.5, "f1": 0.6, "loss": 0.2, "perplexity": 1.22, "eos_rate": 1.0, "count": frame.height}
    base = {"accuracy": 0.25, "f1": 0.3, "loss": 4.2, "perplexity": 66.7, "eos_rate": 0.0, "count": frame.height}
    report = {"tuned": tuned, "base": base if with_base else None, "samples": frame.height, "seconds": 1.5}
    (folder / "evaluation.json").write_text(json.dumps(report))
    return {
        "examples_path": str(folder / "examples.parquet"),
        "evaluation_path": str(folder / "evaluation.json"),
        "model_id": "model_x",
    }


@pytest.fixture
def frame() -> pl.DataFrame:
    """Four rows: right before and now, gained, lost, and wrong before and now with an answer that looks like HTML."""
    return pl.DataFrame(
        {
            "row": [0, 1, 2, 3],
            "prompt": [f"Below is ...\n\n### Instruction:\nquestion {i}\n\n### Response:\n" for i in range(4)],
            "reference": ["a", "b", "c", "d"],
            "tuned_answer": ["a", "b", "x", "<script>alert(1)</script>"],
            "base_answer": ["a", "x", "c", None],
            "tuned_correct": [True, True, False, False],
            "base_correct": [True, False, True, False],
            "tuned_f1": [1.0, 1.0, 0.0, 0.0],
            "base_f1": [1.0, 0.0, 1.0, 0.0],
            "tuned_stopped": [True, True, True, False],
        }
    )


def test_its_parameters_can_be_checked(settings: Settings) -> None:
    types = {name: parameter.type for name, parameter in notebooks.parameters_of(NAME, settings).items()}
    assert types == {"examples_path": "str", "evaluation_path": "str", "model_id": "str", "max_examples": "int"}


def test_it_runs_with_its_defaults(settings: Settings, tmp_path: Path) -> None:
    told, html = run(settings, tmp_path)
    assert "Model sample: 60 questions, 60 answers, with the base model's" in told
    assert html.count('src="data:image/png') == 3


def test_it_compares_tuned_with_base(settings: Settings, tmp_path: Path, frame: pl.DataFrame) -> None:
    told, html = run(settings, tmp_path, **evaluation(tmp_path, frame, with_base=True))
    assert "right before and now: 1  gained: 1  lost: 1  wrong before and now: 1" in told
    assert "perplexity  tuned    1.220   base   66.700" in told
    assert "question 3" in html
    assert "Below is" not in html
    assert "&lt;script&gt;alert(1)" in html, "an answer is text, whatever it looks like"
    assert "<script>alert(1)" not in html


def test_it_does_without_the_base_model(settings: Settings, tmp_path: Path, frame: pl.DataFrame) -> None:
    alone = frame.select(pl.exclude("base_answer", "base_correct", "base_f1"))
    told, html = run(settings, tmp_path, **evaluation(tmp_path, alone, with_base=False))
    assert "4 questions, 4 answers, without the base model's" in told
    assert "right: 2  wrong: 2" in told
    assert "question 0" in html


def test_it_does_without_answers(settings: Settings, tmp_path: Path, frame: pl.DataFrame) -> None:
    told, _ = run(settings, tmp_path, **evaluation(tmp_path, frame.select("row", "prompt", "reference"), with_base=True))
    assert "No answers were generated" in told
