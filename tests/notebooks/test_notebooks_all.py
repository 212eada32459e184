"""What holds for every notebook of the project: how it is committed, and that it runs with its defaults."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from llm_platform import notebooks
from llm_platform.errors import TrainingError
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings

PATHS = sorted(notebooks.PROJECT_NOTEBOOKS.glob("*.ipynb"))
ALL = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


def papermill(path: Path, folder: Path, *options: str) -> str:
    """Runs a notebook as a person would by hand; what its cells told."""
    out = folder / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(path), str(out), "--cwd", str(folder), "--no-progress-bar", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    notebook = nbformat.read(out, as_version=4)
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_they_are_all_there() -> None:
    assert {"explore_dataset", "finetune", "evaluate_model", "compare_models", "playground"} <= {path.stem for path in PATHS}


@ALL
def test_it_is_committed_without_output_and_with_one_parameters_cell(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


@ALL
def test_every_parameter_has_a_type_a_default_and_a_word_of_help(path: Path, tmp_path: Path) -> None:
    found = notebooks.parameters_of(path.stem, Settings(home=tmp_path))
    assert found
    for parameter in found.values():
        assert parameter.type in ("str", "int", "float", "bool"), parameter.name
        assert parameter.accepts(parameter.value), parameter.name
        assert parameter.help, parameter.name


def test_one_runs_by_papermill_on_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_PLATFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLM_PLATFORM_HOME", str(tmp_path / "home"))
    (tmp_path / "rows.csv").write_text("question,answer\nwhy?,because\nwho?,me\nwhy?,because\n")
    explore = notebooks.PROJECT_NOTEBOOKS / "explore_dataset.ipynb"
    assert "3 rows, 1 repeats" in papermill(explore, tmp_path, "-p", "table_path", str(tmp_path / "rows.csv"))


def test_comparing_models_on_made_up_answers(tmp_path: Path) -> None:
    reporter = ListReporter()
    given: dict[str, notebooks.Value] = {"min_gain": 0.9, "max_regressions": 0}
    done = notebooks.run("compare_models", given, tmp_path / "out.ipynb", reporter, 120, Settings(home=tmp_path / "home"))
    told = "\n".join(message for level, message, _ in reporter.lines if level == "INFO")
    assert "3 models on 120 rows, each against base model" in told
    assert "adapter r=16 against base model: not good enough" in told
    assert "below min_gain 0.9" in told and "more than max_regressions 0" in told
    assert done.html.read_text().count('src="data:image/png') == 2


@pytest.mark.slow
@ALL
def test_it_runs_with_its_defaults_by_papermill_and_as_the_platform_runs_it(path: Path, tmp_path: Path) -> None:
    by_hand = papermill(path, tmp_path)
    reporter = ListReporter()
    settings = Settings(home=tmp_path / "home", cache=Path(os.environ.get("LLM_PLATFORM_CACHE") or Settings().cache))
    done = notebooks.run(path.stem, {}, tmp_path / "node" / "out.ipynb", reporter, 300, settings)
    assert by_hand.strip()
    assert 'src="data:image/png' in done.html.read_text()
    assert [level for level, _, _ in reporter.lines if level == "ERROR"] == []


@pytest.mark.slow
def test_finetuning_learns_the_task(tmp_path: Path) -> None:
    told = papermill(notebooks.PROJECT_NOTEBOOKS / "finetune.ipynb", tmp_path, "-p", "output_path", str(tmp_path / "adapter"))
    (line,) = [line for line in told.splitlines() if line.startswith("accuracy: ")]
    before, after = (float(word) for word in line.replace(",", "").split() if word[0].isdigit())
    assert before < 0.1 and after > 0.7
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    asked = ("-p", "adapter_path", str(tmp_path / "adapter"), "-p", "questions", "I was charged twice.\nMy parcel is late.")
    told = papermill(notebooks.PROJECT_NOTEBOOKS / "playground.ipynb", tmp_path, *asked)
    assert told.count("Q: ") == 2 and told.count("tuned: 'Team: ") == 2


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("finetune", {"method": "lora2"}, "method"),
        ("compare_models", {"metric": "beauty"}, "metric"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_the_platform_s_own_models(
    tmp_path: Path, name: str, given: dict[str, notebooks.Value], says: str
) -> None:
    with pytest.raises(TrainingError, match="ValidationError") as caught:
        notebooks.run(name, given, tmp_path / "out.ipynb", ListReporter(), 120, Settings(home=tmp_path / "home"))
    assert says in caught.value.message
