"""Running notebooks: what is allowed, what is kept, and that nothing is left running."""

from __future__ import annotations

import os
import subprocess
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
from llm_platform.notebook_process import kill_all
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
    assert Path(notebooks.allowed(settings)["evaluate_model"]).parent == notebooks.PROJECT_NOTEBOOKS


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


@pytest.mark.parametrize("missing", ["kernelspec", "everything"])
def test_a_notebook_need_not_name_a_kernel(settings: Settings, folder: Path, missing: str) -> None:
    path = write(folder, "mine")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {} if missing == "everything" else {"language_info": {"name": "python"}}
    nbformat.write(notebook, path)
    notebooks.check("mine", {"count": 1}, settings)


def test_a_notebook_of_another_language_is_refused(settings: Settings, folder: Path) -> None:
    path = write(folder, "mine")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}
    nbformat.write(notebook, path)
    with pytest.raises(InvalidConfig, match="'mine' cannot be used: it is written in R"):
        notebooks.check("mine", {}, settings)


def test_a_parameters_cell_that_is_no_python_is_refused(settings: Settings, folder: Path) -> None:
    write(folder, "mine", parameters="count: int = 1\nshare = = 2")
    with pytest.raises(InvalidConfig, match="its parameters cell is no Python: invalid syntax in line 2"):
        notebooks.check("mine", {}, settings)


@pytest.mark.parametrize(
    ("source", "kind", "optional", "value"),
    [
        ("x: int | None = None", "int", True, None),
        ("x: None | str = 'a'", "str", True, "a"),
        ("x: Optional[float] = 0.5", "float", True, 0.5),
        ("x = (\n    'one'\n    ' two'\n)", "str", False, "one two"),
        ("x = -3", "int", False, -3),
        ("x: bool = not False", "bool", False, None),
        ("x = 1 + 1", "", False, None),
        ("x: list[str] = ['a']", "list[str]", False, None),
        ("x = {}", "dict", False, None),
    ],
)
def test_what_an_assignment_says_of_its_parameter(
    settings: Settings, folder: Path, source: str, kind: str, optional: bool, value: notebooks.Value
) -> None:
    write(folder, "mine", parameters=f"import os\n{source}  # what it is for\nos.sep")
    (found,) = notebooks.parameters_of("mine", settings).values()
    assert (found.name, found.type, found.optional, found.value, found.help) == ("x", kind, optional, value, "what it is for")


def test_what_cannot_be_given_is_refused(settings: Settings, folder: Path) -> None:
    write(folder, "mine", parameters="names: list[str] = ['a']")
    with pytest.raises(InvalidConfig, match=r"'names' of notebook 'mine' must be list\[str\], not str 'a'"):
        notebooks.check("mine", {"names": "a"}, settings)


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
    write(folder, "mine", "import sys\nprint('count is', count)\nprint(sys.executable == path)", "count + 1")
    reporter = ListReporter()
    done = notebooks.run("mine", {"count": 41, "path": sys.executable}, out, reporter, 60, settings)
    assert (done.ipynb, done.html) == (out, out.with_suffix(".html"))
    assert "count is 41" in done.html.read_text()
    assert done.cells == 4
    messages = [message for _, message, _ in reporter.lines]
    assert "count is 41" in messages
    assert "42" in messages
    assert outputs(done.ipynb).splitlines()[1] == "True", "the kernel is this Python"
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


def test_a_failing_cell_is_in_the_log_with_its_source_and_traceback(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine", "def broken():\n    raise ValueError('too hot')\nbroken()")
    reporter = ListReporter()
    with pytest.raises(TrainingError):
        notebooks.run("mine", {"path": str(settings.root / "secret place")}, out, reporter, 60, settings)
    ((message, data),) = [(message, data) for level, message, data in reporter.lines if level == "ERROR"]
    assert message.startswith("Cell 3:\ndef broken():\n    raise ValueError('too hot')\nbroken()\n")
    assert message.endswith("ValueError: too hot") and "line 2" in message and data == {"cell": 3}
    page = out.with_suffix(".html").read_text()
    assert "too hot" in page and "ansi-red" in page
    for text in (out.read_text(), page, message):
        assert str(settings.root) not in text and sys.prefix not in text, "where things lie on this machine"
    assert "$LLM_PLATFORM_HOME/secret place" in out.read_text()


def test_a_syntax_error_is_named(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine", "if:")
    with pytest.raises(TrainingError, match="failed in cell 2: SyntaxError"):
        notebooks.run("mine", {}, out, ListReporter(), 60, settings)


ENDLESS = """\
import os, subprocess, sys
wait = "import time; time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", wait], start_new_session=True)
bare = subprocess.Popen([sys.executable, "-c", wait], env={}, start_new_session=True)
daemon = "import subprocess as s, sys; print(s.Popen([sys.executable, '-c', %r], start_new_session=True, stdout=s.DEVNULL).pid)" % wait
orphan = subprocess.run([sys.executable, "-c", daemon], stdout=subprocess.PIPE, text=True).stdout.strip()
print("pids", os.getpid(), child.pid, bare.pid, orphan, flush=True)
while True: pass
"""
"""A child with a session of its own, one without the kernel's environment, and a grandchild whose parent has ended."""


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
    with pytest.raises(TrainingError, match="did not finish within 3 seconds; it was in cell 2"):
        notebooks.run("mine", {}, out, watcher, 3, settings)
    assert len(watcher.pids) == 4
    assert all(gone(pid) for pid in watcher.pids)
    assert out.is_file()


def test_a_notebook_that_wants_too_much_memory_is_ended(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine", "kept = bytearray(600 * 2**20)\nkept[::4096] = b'x' * len(kept[::4096])\nwhile True: pass")
    with pytest.raises(TrainingError, match=r"used [\d,]+ MiB of memory in cell 2; memory_mb allows 400"):
        notebooks.run("mine", {}, out, ListReporter(), 60, settings, memory_mb=400)
    assert out.is_file() and out.with_suffix(".html").is_file()


HOST = """\
import sys
from pathlib import Path
from llm_platform import notebooks
from llm_platform.reporting import ConsoleReporter
from llm_platform.settings import Settings
settings = Settings(home=Path(sys.argv[1]), notebook_roots=[Path(sys.argv[2])])
notebooks.run("mine", {}, Path(sys.argv[3]), ConsoleReporter(), 600, settings)
"""


def test_a_kernel_ends_with_the_process_that_started_it_and_the_rest_can_be_found(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine", ENDLESS)
    command = [sys.executable, "-c", HOST, str(settings.root), str(folder), str(out)]
    host = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert host.stderr is not None
    with host.stderr:
        kernel, *others = next([int(word) for word in line.split()[1:]] for line in host.stderr if line.startswith("pids "))
        host.kill()
        host.wait()
    assert gone(kernel)
    kill_all(out.parent)
    child, bare, orphan = others
    assert gone(child) and gone(orphan)
    psutil.Process(bare).kill()  # it was given no environment to be known by, and its parent is gone


def test_cancelling_kills_the_kernel_and_its_children(settings: Settings, folder: Path, out: Path) -> None:
    write(folder, "mine", ENDLESS)
    watcher = Watcher(cancel=True)
    with pytest.raises(Cancelled):
        notebooks.run("mine", {}, out, watcher, 60, settings)
    assert len(watcher.pids) == 4
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
