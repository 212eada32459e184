"""Parameterized notebooks as work: which may run, with which parameters, and one execution kept as .ipynb and .html.

A notebook is allowed by lying in the project's `notebooks/` folder or in one of `Settings.notebook_roots`. Its cell
tagged `parameters` says what it takes; that is checked before anything runs.
"""

from __future__ import annotations

import ast
import logging
import re
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_platform.errors import InvalidConfig, TrainingError
from llm_platform.reporting import Reporter
from llm_platform.specs.base import NAME

if TYPE_CHECKING:
    from llm_platform.notebook_kernel import Execution
    from llm_platform.settings import Settings

Value = str | int | float | bool | None
ALLOWED_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}
PROJECT_NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
TRACEBACK_LINES = 15
POLL_SECONDS = 0.5
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Parameter:
    """One assignment of the parameters cell. `type` is `str`, `int`, `float`, `bool`, or "" where it is none of these."""

    name: str
    type: str
    optional: bool
    default: str
    help: str

    def accepts(self, value: Value) -> bool:
        if value is None:
            return self.optional
        if not self.type:
            return True
        return isinstance(value, ALLOWED_TYPES[self.type]) and (self.type == "bool" or not isinstance(value, bool))


@dataclass(frozen=True)
class NotebookRun:
    """What an execution left behind."""

    ipynb: Path
    html: Path
    seconds: float
    cells: int


def allowed(settings: Settings) -> dict[str, Path]:
    """The notebooks that may run, by name. The project's own win over those of other folders."""
    found: dict[str, Path] = {}
    for root in (PROJECT_NOTEBOOKS, *settings.notebook_roots):
        folder = root.expanduser().resolve()
        for path in sorted(folder.glob("*.ipynb")):
            # A link that leads out of the folder is no notebook of the folder.
            if path.is_file() and path.resolve().parent == folder and re.fullmatch(NAME, path.stem):
                found.setdefault(path.stem, path.resolve())
    return found


def parameters_of(name: str, settings: Settings) -> dict[str, Parameter]:
    """The parameters of an allowed notebook. Raises InvalidConfig if it is not allowed or cannot take parameters."""
    path = _find(name, settings)
    return dict(_inspect(path, path.stat().st_mtime_ns))


def check(name: str, parameters: dict[str, Value], settings: Settings) -> None:
    """Raises InvalidConfig, with every error, if the notebook is not allowed or does not take these parameters."""
    known = parameters_of(name, settings)
    errors = []
    for key, value in parameters.items():
        parameter = known.get(key)
        if parameter is None:
            errors.append((key, f"Notebook '{name}' has no parameter '{key}'; it has {', '.join(known) or 'none'}"))
        elif not parameter.accepts(value):
            errors.append((key, f"Parameter '{key}' of notebook '{name}' must be {parameter.type or 'set'}, not {_shown(value)}"))
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        listed = [{"field": f"parameters.{key}", "agent": None, "message": message} for key, message in errors]
        raise InvalidConfig(f"{errors[0][1]}{more}", errors=listed)


def run(name: str, parameters: dict[str, Value], out: Path, reporter: Reporter, timeout: int, settings: Settings) -> NotebookRun:
    """Executes an allowed notebook into the file `out` and an .html beside it, its output and progress going to the reporter.

    Raises TrainingError when a cell fails, when the kernel dies, or after `timeout` seconds; what had run by then is
    kept in `out`. However it ends, the kernel and its child processes are gone.
    """
    check(name, parameters, settings)
    from llm_platform.notebook_kernel import Execution

    started = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="notebook-", dir=settings.work) as scratch:
        execution = Execution(_find(name, settings), dict(parameters), out, Path(scratch), reporter)
        execution.start()
        try:
            while not execution.done.wait(POLL_SECONDS):
                reporter.check_cancelled()
                if time.monotonic() - started > timeout:
                    raise TrainingError(
                        f"Notebook '{name}' did not finish within {timeout} seconds; it was in cell {execution.current}",
                        notebook=name,
                        cell=execution.current,
                        timeout=timeout,
                    )
        finally:
            execution.stop()
            _remove_paths(out)
    if execution.error is not None:
        raise _failure(name, execution) from execution.error
    html = _render(out)
    return NotebookRun(out, html, time.monotonic() - started, execution.current)


def _find(name: str, settings: Settings) -> Path:
    notebooks = allowed(settings)
    if name not in notebooks:
        message = f"Unknown notebook '{name[:100]}'; allowed are {', '.join(notebooks) or 'none'}"
        raise InvalidConfig(message, errors=[{"field": "notebook", "agent": None, "message": message}])
    return notebooks[name]


@lru_cache(maxsize=256)
def _inspect(path: Path, _changed: int) -> tuple[tuple[str, Parameter], ...]:
    """The parameters cell, read once for each version of the file."""
    import nbformat
    from papermill.inspection import inspect_notebook
    from papermill.log import logger

    def unusable(reason: str) -> InvalidConfig:
        message = f"Notebook '{path.stem}' cannot be used: {reason}"
        return InvalidConfig(message, errors=[{"field": "notebook", "agent": None, "message": message}])

    try:
        notebook = nbformat.read(path, as_version=4)
        tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    except Exception as error:  # nbformat raises whatever its JSON and schema libraries raise
        raise unusable(f"it is no notebook ({type(error).__name__})") from error
    if len(tagged) != 1:
        raise unusable(f"it needs one cell tagged 'parameters'; it has {len(tagged)}")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        found = inspect_notebook(str(path).replace("{", "{{").replace("}", "}}"))
    finally:
        logger.setLevel(level)
    return tuple((key, _parameter(item)) for key, item in found.items())


def _parameter(item: dict[str, Any]) -> Parameter:
    """papermill's finding, with the type of the default where the cell gives no annotation."""
    annotation, default = str(item["inferred_type_name"]).strip(), str(item["default"])
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        value = ...
    inner = re.fullmatch(r"Optional\[(\w+)\]", annotation)
    name = inner[1] if inner else annotation
    if annotation == "None":
        name = type(value).__name__
    return Parameter(
        name=str(item["name"]),
        type=name if name in ALLOWED_TYPES else "",
        optional=inner is not None or value is None,
        default=default,
        help=str(item["help"]).strip(),
    )


def _shown(value: Value) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:50]!r}"


def _failure(name: str, execution: Execution) -> TrainingError:
    """What a person needs to know about a notebook that did not come through."""
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    error, cell = execution.error, execution.current
    if isinstance(error, PapermillExecutionError):
        lines = ANSI.sub("", "\n".join(error.traceback)).splitlines()[-TRACEBACK_LINES:]
        return TrainingError(
            f"Notebook '{name}' failed in cell {cell}: {error.ename}: {error.evalue[:500]}",
            notebook=name,
            cell=cell,
            source=error.source,
            traceback=lines,
        )
    if isinstance(error, DeadKernelError):
        message = f"The kernel of notebook '{name}' died in cell {cell}; it may have used more memory than there is"
        return TrainingError(message, notebook=name, cell=cell)
    return TrainingError(f"Notebook '{name}' could not be run: {type(error).__name__}: {str(error)[:500]}", notebook=name)


def _remove_paths(ipynb: Path) -> None:
    """papermill notes where the files lie on this machine, which is nobody's business who reads the notebook later."""
    import nbformat

    if not ipynb.is_file():
        return
    notebook = nbformat.read(ipynb, as_version=4)
    for key in ("input_path", "output_path"):
        if notebook.metadata.get("papermill", {}).get(key):
            notebook.metadata.papermill[key] = Path(notebook.metadata.papermill[key]).name
    nbformat.write(notebook, ipynb)


def _render(ipynb: Path) -> Path:
    """The notebook as one HTML file beside it."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(ipynb))
    html = ipynb.with_suffix(".html")
    html.write_text(body, encoding="utf-8")
    return html
