"""The notebook `explore_dataset`: with its defaults, and on a table with a base model that is on this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llm_platform import notebooks
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings
from tests.tiny_models import COLOURS, make_base

NAME = "explore_dataset"


def run(settings: Settings, folder: Path, **parameters: notebooks.Value) -> tuple[str, str]:
    """(what it told, its HTML)."""
    reporter = ListReporter()
    done = notebooks.run(NAME, parameters, folder / "ran.ipynb", reporter, 120, settings)
    return "\n".join(message for level, message, _ in reporter.lines if level == "INFO"), done.html.read_text()


def test_it_runs_with_its_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_PLATFORM_CACHE", str(tmp_path / "cache"))
    told, html = run(Settings(home=tmp_path / "home"), tmp_path)
    assert "125 rows, 1 repeats" in told
    assert "is not on this machine yet" in told
    assert html.count('src="data:image/png') == 1


def test_it_shows_the_loss_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path / "models" / "base")
    monkeypatch.setenv("LLM_PLATFORM_MODEL_ROOTS", json.dumps([str(base.parent)]))
    monkeypatch.setenv("LLM_PLATFORM_HOME", str(tmp_path / "home"))
    table = tmp_path / "rows.csv"
    table.write_text("question,answer\n" + "".join(f"w{n} w{n + 1} <b>sky</b>,{COLOURS[n % 12]}\n" for n in range(40)))
    told, html = run(Settings(), tmp_path, table_path=str(table), base_model=str(base), template="plain", rows_shown=1)
    assert "40 rows, 0 repeats" in told
    assert "40 of 40 rows end with EOS" in told
    assert html.count('src="data:image/png') == 3
    assert re.search(rf"#b7e4c7[^>]*>\s*{COLOURS[0]}<", html)
    assert re.search(r"#b7e4c7[^>]*>\s*&lt;/s&gt;<", html)
    assert re.search(r"#eee[^>]*>\s*w1<", html)
    assert "<b>sky</b>" not in html
