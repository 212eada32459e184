"""Running notebooks: what is allowed, what is kept, and that nothing is left running."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from llm_platform import notebooks
from llm_platform.errors import Cancelled, InvalidConfig, TrainingError
from llm_platform.notebook_kernel import kernel_environment
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings

PARAMETERS = """\
# What the notebook works on.
path: str = ""  # where it writes
count: int = 3
share: float = 0.5
loud = False
label = None
"""


def write(folder: Path, name: str, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "no-such-kernel", "display_name": "x", "language": "python"}})
    if parameters is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells.extend(nbformat.v4.new_code_cell(source) for source in cells)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "notebooks"


@pytest.fixture
def settings(tmp_path: Path, folder: Path) -> Settings:
    folder.mkdir()
    return Settings(home=tmp_path / "home", notebook_roots=[folder])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out {x}" / "ran.ipynb"


def gone(pid: int) -> bool:
    try:
        psutil.Process(pid).wait(timeout=10)
    except psutil.NoSuchProcess:
        return True
    return True


def outputs(path: Path) -> str:
    notebook = nbformat.read(path, as_version=4)
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def test_allowed_are_the_projects_notebooks_and_those_of_the_operators_folders(settings: Settings, folder: Path, tmp_path: Path) -> None:
    write(folder, "mine")
    write(folder, "not a name")
    write(folder / "below", "hidden")
    (folder / "linked.ipynb").symlink_to(write(tmp_path / "elsewhere", "secret"))
    (folder / "alias.ipynb").symlink_to(folder / "mine.ipynb")
    names = notebooks.allowed(settings)
    assert {"evaluate_model", "mine", "alias"} <= set(names)
    assert not {"not a name", "hidden", "linked", "secret"} & set(names)
    assert names["mine"] == folder / "mine.ipynb"


def test_a_notebook_of_the_project_cannot_be_replaced(settings: Settings, folder: Path) -> None:
    write(folder, "evaluate_model")
    assert notebooks.allowed(settings)["evaluate_model"].parent == notebooks.PROJECT_NOTEBOOKS


@pytest.mark.parametrize("name", ["nothing", "../secret", "/etc/passwd", "mine.ipynb", ""])
def test_an_unknown_notebook_is_refused_with_those_that_are_known(settings: Settings, folder: Path, name: str) -> None:
    write(folder, "mine")
    with pytest.raises(InvalidConfig, match=r"Unknown notebook.*evaluate_model.*mine"):
        notebooks.check(name, {}, settings)


def test_parameters_are_read_with_their_types_defaults_and_help(settings: Settings, folder: Path) -> None:
    write(folder, "mine")
    found = notebooks.parameters_of("mine", settings)
    assert [(p.name, p.type, p.optional, p.default) for p in found.values()] == [
        ("path", "str", False, '""'),
        ("count", "int", False, "3"),
        ("share", "float", False, "0.5"),
        ("loud", "bool", False, "False"),
        ("label", "", True, "None"),
    ]
    assert found["path"].help == "where it writes"


def test_parameters_that_fit_are_taken(settings: Settings, folder: Path) -> None:
    write(folder, "mine", parameters=PARAMETERS + "most: Optional[int] = 4\n")
    notebooks.check("mine", {"path": "x", "count": 1, "share": 1, "loud": True, "label": "x", "most": None}, settings)


def test_every_parameter_that_does_not_fit_is_named(settings: Settings, folder: Path) -> None:
    write(folder, "mine")
    wrong: dict[str, notebooks.Value] = {"count": "3", "share": True, "loud": 1, "path": None, "cuont": 3}
    with pytest.raises(InvalidConfig) as caught:
        notebooks.check("mine", wrong, settings)
    assert {item["field"] for item in caught.value.metadata["errors"]} == {f"parameters.{name}" for name in wrong}
    assert "must be int, not str '3'" in caught.value.message
    assert "no parameter 'cuont'; it has path, count" in caught.value.metadata["errors"][-1]["message"]


def test_a_changed_notebook_is_read_again(settings: Settings, folder: Path) -> None:
    path = write(folder, "mine")
    notebooks.check("mine", {"count": 1}, settings)
    write(folder, "mine", parameters="other: int = 1")
    os.utime(path, ns=(1, 1))
    with pytest.raises(InvalidConfig, match="no parameter 'count'; it has other"):
        notebooks.check("mine", {"count": 1}, settings)


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json", '{"cells": 1}'])
def test_a_file_that_is_no_notebook_is_a_clear_error(settings: Settings, folder: Path, content: str) -> None:
    (folder / "broken.ipynb").write_text(content)
    with pytest.raises(InvalidConfig, match="'broken' cannot be used"):
        notebooks.check("broken", {}, settings)


def test_a_notebook_without_a_parameters_cell_is_refused(settings: Settings, folder: Path) -> None:
    write(folder, "plain", "1 + 1", parameters=None)
    with pytest.raises(InvalidConfig, match="needs one cell tagged 'parameters'; it has 0"):
        notebooks.check("plain", {}, settings)


def test_a_run_keeps_the_notebook_and_its_html_and_tells_what_was_printed(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine", "import sys\nprint('count is', count)\nprint(sys.executable)", "count + 1")
    reporter = ListReporter()
    done = notebooks.run("mine", {"count": 41}, out, reporter, 60, settings)
    assert (done.ipynb, done.html) == (out, out.with_suffix(".html"))
    assert "count is 41" in done.html.read_text()
    assert done.cells == 4
    messages = [message for _, message, _ in reporter.lines]
    assert "count is 41" in messages
    assert "42" in messages
    assert outputs(done.ipynb).splitlines()[1] == sys.executable, "the kernel is this Python"
    assert ("PROGRESS", "cells", {"done": 3, "total": 4}) in reporter.lines
    assert str(settings.root) not in done.ipynb.read_text()
    assert list(settings.work.iterdir()) == []


def test_a_failing_cell_is_named_and_the_half_run_notebook_kept(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine", "print('so far')", "def broken():\n    raise ValueError('too hot')\nbroken()", "print('never')")
    with pytest.raises(TrainingError, match="failed in cell 3: ValueError: too hot") as caught:
        notebooks.run("mine", {}, out, ListReporter(), 60, settings)
    assert caught.value.metadata["cell"] == 3
    assert caught.value.metadata["source"].startswith("def broken()")
    assert caught.value.metadata["traceback"][-1] == "ValueError: too hot"
    assert "\x1b" not in "".join(caught.value.metadata["traceback"])
    assert outputs(out) == "so far\n"


def test_a_syntax_error_is_named(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine", "if:")
    with pytest.raises(TrainingError, match="failed in cell 2: SyntaxError"):
        notebooks.run("mine", {}, out, ListReporter(), 60, settings)


ENDLESS = """\
import os, subprocess, sys
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)
print('pids', os.getpid(), child.pid, flush=True)
while True: pass
"""


class Watcher(ListReporter):
    """Knows the processes that the notebook printed, and cancels once it does if it is told to."""

    def __init__(self, cancel: bool) -> None:
        super().__init__()
        self.pids: list[int] = []
        self._cancel = cancel
        self._seen = threading.Event()

    def info(self, message: str, **data: Any) -> None:
        if message.startswith("pids "):
            self.pids = [int(word) for word in message.split()[1:]]
            self._seen.set()

    def check_cancelled(self) -> None:
        if self._cancel and self._seen.is_set():
            raise Cancelled


def test_an_endless_cell_ends_at_the_time_limit_with_all_its_processes(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine", ENDLESS)
    watcher = Watcher(cancel=False)
    with pytest.raises(TrainingError, match="did not finish within 5 seconds; it was in cell 2"):
        notebooks.run("mine", {}, out, watcher, 5, settings)
    assert len(watcher.pids) == 2
    assert all(gone(pid) for pid in watcher.pids)
    assert out.is_file()


def test_cancelling_kills_the_kernel_and_its_children(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine", ENDLESS)
    watcher = Watcher(cancel=True)
    with pytest.raises(Cancelled):
        notebooks.run("mine", {}, out, watcher, 60, settings)
    assert len(watcher.pids) == 2
    assert all(gone(pid) for pid in watcher.pids)
    assert list(settings.work.iterdir()) == []


def test_a_kernel_that_the_system_kills_is_a_clear_error(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(TrainingError, match="died in cell 2; it may have used more memory than there is"):
        notebooks.run("mine", {}, out, ListReporter(), 60, settings)


def test_wrong_parameters_start_no_kernel(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine")
    with pytest.raises(InvalidConfig):
        notebooks.run("mine", {"count": "x"}, out, ListReporter(), 60, settings)
    assert not out.parent.exists()


def test_a_kernel_sees_no_secret(tmp_path: Path) -> None:
    secret = {
        "LLM_PLATFORM_S3_SECRET_KEY": "a",
        "LLM_PLATFORM_S3_ENDPOINT": "a",
        "LLM_PLATFORM_DATABASE_URL": "postgresql://user:password@host/db",
        "HF_TOKEN": "a",
        "AWS_ACCESS_KEY_ID": "a",
        "OPENAI_API_KEY": "a",
        "DB_PASSWORD": "a",
        "DAGSTER_PIPES_CONTEXT": "a",
        "MPLBACKEND": "agg",
    }
    plain = {"PATH": "/bin", "HOME": "/home/x", "LLM_PLATFORM_HOME": "/home/x/.home", "LLM_PLATFORM_MLFLOW_URL": "http://127.0.0.1:5000"}
    kept = kernel_environment(secret | plain, tmp_path)
    assert not secret.keys() & kept.keys()
    assert plain.items() <= kept.items()
