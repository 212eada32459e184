"""NotebookAgent through the agents: what it is handed, what it keeps, and that it explains what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from llm_platform import runlog
from llm_platform.agents import Node, Platform, run_node
from llm_platform.errors import Cancelled, TrainingError
from llm_platform.reporting import ListReporter
from llm_platform.runlog import RunLogReporter
from llm_platform.settings import Settings
from llm_platform.specs.results import NodeResult

ALL = """\
run_id = ""
model_id = ""
model_ids = ""
base_model = ""
preprocessing = ""
metric = ""
table_path = ""
table_address = ""
splits_path = ""
adapter_path = ""
adapter_address = ""
examples_path = ""
evaluation_path = ""
evaluation_address = ""
comparison_path = ""
report_path = ""
upstream = ""
mine = 1
"""
NAMES = [line.partition(" ")[0] for line in ALL.splitlines()]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A run `r` whose nodes have results as they leave them, and notebooks that a user has put into a folder."""
    home = tmp_path_factory.mktemp("platform")
    folder = home / "notebooks"
    folder.mkdir()
    tell = f"import json\nprint('GIVEN', json.dumps({{name: globals()[name] for name in {NAMES}}}))"
    write(folder / "all.ipynb", ALL, tell)
    write(folder / "some.ipynb", "mine: int = 1", "print('one', flush=True)\nprint('two', mine)", "raise ValueError(f'mine is {mine}')")
    made = Platform.from_settings(Settings(home=home / "home", cache=home / "cache", notebook_roots=[folder]))
    (home / "rows.csv").write_text("question,answer\n" + "".join(f"What is {n} plus 1?,{n + 1}\n" for n in range(30)))
    made.storage.put_file(home / "rows.csv", "s3://datasets/rows.csv")
    run(made, "rows", "DatasetAgent", [], file_path="s3://datasets/rows.csv")
    upstream(made, "splits", "PreprocessingAgent", {"splits": "s3://artifacts/cache/splits/x"}, base_model="org/base", config={"a": 1})
    models = {"model_ids": ["model_r"]}
    data = {"base_model": "org/base", "preprocessing": {"a": 1}, "splits": "s3://artifacts/cache/splits/x"}
    upstream(made, "training", "TrainingAgent", {"adapter": "s3://artifacts/r/adapter"}, models, **data)
    upstream(made, "scores", "EvaluationAgent", {"evaluation": "s3://artifacts/r/evaluations/scores/training"}, models)
    both = {"model_ids": ["model_r", "model_s"]}
    upstream(made, "choice", "ComparisonAgent", {"comparison": "s3://artifacts/r/comparisons/choice"}, both, metric="f1")
    yield made
    made.close()


def write(path: Path, parameters: str, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})])
    notebook.cells.extend(nbformat.v4.new_code_cell(source) for source in cells)
    nbformat.write(notebook, path)


def upstream(
    platform: Platform, name: str, kind: str, artifacts: dict[str, str], fields: dict[str, Any] | None = None, **data: Any
) -> None:
    """A finished node, with its artifacts in the store."""
    for address in artifacts.values():
        folder = platform.settings.work / "made"
        folder.mkdir(exist_ok=True)
        (folder / "file.txt").write_text(address)
        platform.storage.put_folder(folder, address)
    result = NodeResult(artifacts=artifacts, metrics={"figure": 0.5}, data=data, **(fields or {}))
    platform.database.start_node("r", name, kind, f"digest of {name}")
    platform.database.end_node("r", name, "completed", result=result.model_dump(mode="json"))


def run(platform: Platform, name: str, kind: str, inputs: list[str], reporter: Any = None, **config: Any) -> NodeResult:
    body = {"run_id": "r", "agent_name": name, "agent_class": kind, "inputs": inputs, "peers": 1, "config": config}
    return run_node(platform, Node.from_dict(body), reporter or ListReporter())


def given(platform: Platform, name: str, inputs: list[str], **parameters: Any) -> dict[str, Any]:
    """What the notebook found in its parameters."""
    reporter = ListReporter()
    result = run(platform, name, "NotebookAgent", inputs, reporter, notebook="all", parameters=parameters)
    assert result.data == {"notebook": "all", "parameters": parameters, "cells": 3}
    (line,) = [text for _, text, _ in reporter.lines if text.startswith("GIVEN ")]
    return json.loads(line.removeprefix("GIVEN "))


def test_a_notebook_is_handed_what_the_nodes_before_it_made(platform: Platform) -> None:
    found = given(platform, "everything", ["rows", "splits", "training", "scores", "choice"], mine=7)
    objects = "$LLM_PLATFORM_HOME/objects/artifacts"
    table = found.pop("table_address")
    assert table.startswith("s3://artifacts/cache/tables/") and found.pop("table_path") == table.replace("s3://artifacts", objects)
    seen = json.loads(found.pop("upstream"))
    assert list(seen) == ["rows", "splits", "training", "scores", "choice"]
    assert seen["training"]["agent_class"] == "TrainingAgent" and seen["training"]["metrics"] == {"figure": 0.5}
    assert seen["rows"]["artifacts"]["table"] == table
    assert found == {
        "run_id": "r",
        "model_id": "model_r",
        "model_ids": "model_r",
        "base_model": "org/base",
        "preprocessing": '{"a": 1}',
        "metric": "f1",
        "splits_path": f"{objects}/cache/splits/x",
        "adapter_path": f"{objects}/r/adapter",
        "adapter_address": "s3://artifacts/r/adapter",
        "examples_path": f"{objects}/r/evaluations/scores/training/examples.parquet",
        "evaluation_path": f"{objects}/r/evaluations/scores/training/evaluation.json",
        "evaluation_address": "s3://artifacts/r/evaluations/scores/training",
        "comparison_path": f"{objects}/r/comparisons/choice",
        "report_path": "",
        "mine": 7,
    }


def test_what_the_node_says_wins_over_what_is_handed_in(platform: Platform) -> None:
    found = given(platform, "own", ["training"], model_id="model_other", table_path="/elsewhere")
    assert (found["model_id"], found["table_path"], found["adapter_address"]) == ("model_other", "/elsewhere", "s3://artifacts/r/adapter")


def test_a_project_s_notebook_behind_a_dataset(platform: Platform) -> None:
    reporter = ListReporter()
    result = run(platform, "look", "NotebookAgent", ["rows"], reporter, notebook="explore_dataset")
    assert any("30 rows, 0 repeats" in text for _, text, _ in reporter.lines)
    assert {kind: address.rpartition("/")[2] for kind, address in result.artifacts.items()} == {
        "notebook": "explore_dataset.ipynb",
        "html": "explore_dataset.html",
    }
    assert result.metrics["notebook_seconds"] > 0


def test_a_failing_cell_fails_the_node_and_what_ran_is_kept(platform: Platform) -> None:
    with RunLogReporter(platform.database, "r", "NotebookAgent", "fails") as reporter, pytest.raises(TrainingError, match="mine is 3"):
        run(platform, "fails", "NotebookAgent", [], reporter, notebook="some", parameters={"mine": 3})
    row = platform.database.node("r", "fails")
    assert row is not None and row["status"] == "failed" and row["error"]["metadata"]["cell"] == 4
    kept = NodeResult.model_validate(row["result"])
    assert set(kept.artifacts) == {"notebook", "html"} and kept.data == {"notebook": "some", "parameters": {"mine": 3}}
    page = b"".join(platform.storage.read_range(kept.artifacts["html"])).decode()
    assert "two 3" in page and "mine is 3" in page
    lines = [(line["level"], line["message"]) for _, line in runlog.read(platform.database, "r") if line["agent_name"] == "fails"]
    told = [message for level, message in lines if level == "INFO"]
    assert told.index("one") < told.index("two 3")
    errors = [message for level, message in lines if level == "ERROR"]
    assert errors[0].startswith("Cell 4:\nraise ValueError(f'mine is {mine}')") and "Notebook 'some' failed in cell 4" in errors[1]


class Impatient(ListReporter):
    def check_cancelled(self) -> None:
        raise Cancelled


def test_a_cancelled_node_leaves_nothing(platform: Platform) -> None:
    with pytest.raises(Cancelled):
        run(platform, "stopped", "NotebookAgent", [], Impatient(), notebook="some")
    row = platform.database.node("r", "stopped")
    assert row is not None and (row["status"], row["result"]) == ("cancelled", None)
    assert platform.storage.list_files("s3://artifacts/r/notebooks/stopped") == []
    assert not list((platform.settings.work / "r" / "stopped").iterdir())


def test_limits_are_the_node_s(platform: Platform) -> None:
    with pytest.raises(TrainingError, match="memory_mb allows 64"):
        run(platform, "small", "NotebookAgent", ["rows"], notebook="explore_dataset", memory_mb=64)
