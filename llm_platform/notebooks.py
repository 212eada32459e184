"""Parameterized notebooks as work: which may run, with which parameters, and one execution kept as .ipynb and .html.

A notebook is allowed by lying in the project's `notebooks/` folder or in one of `Settings.notebook_roots`, which are folders, or
buckets of the object store and folders in them. Its cell tagged `parameters` says what it takes; that is checked before anything
runs. Functions take the object store where there is one at hand, else they make it from the settings.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tempfile
import time
import tokenize
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from llm_platform.errors import InvalidConfig, TrainingError
from llm_platform.reporting import Reporter
from llm_platform.specs.base import NAME

if TYPE_CHECKING:
    from llm_platform.notebook_kernel import Execution
    from llm_platform.settings import Settings
    from llm_platform.storage import Storage

Value = str | int | float | bool | None
ALLOWED_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}
PROJECT_NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The Content-Security-Policy of an executed notebook's page; a server adds `sandbox`, which only a header can say."""
SCHEME = "s3://"
MAX_BYTES = 64 * 2**20
"""Of a notebook that is fetched from a bucket."""
TRACEBACK_LINES = 15
POLL_SECONDS = 0.25
HIDDEN = "$LLM_PLATFORM_HOME"
"""Stands in a kept notebook for the platform's home folder, whose place on the machine is nobody's business."""
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Parameter:
    """One assignment of the parameters cell.

    `type` is `str`, `int`, `float`, `bool`, "" where nothing says it, or what it is else, which then cannot be set. `default` is
    the text of the assignment, `value` what it says where that could be set, else None.
    """

    name: str
    type: str
    optional: bool
    default: str
    value: Value
    help: str

    def accepts(self, value: Value) -> bool:
        if value is None:
            return self.optional
        if not self.type:
            return True
        allowed = ALLOWED_TYPES.get(self.type, ())
        return isinstance(value, allowed) and (self.type == "bool" or not isinstance(value, bool))


@dataclass(frozen=True)
class Description:
    """What a person sees of a notebook before running it. `problem` says why it cannot be run; there are then no parameters."""

    name: str
    title: str
    text: str
    parameters: tuple[Parameter, ...]
    problem: str | None


@dataclass(frozen=True)
class NotebookRun:
    """What an execution left behind."""

    ipynb: Path
    html: Path
    seconds: float
    cells: int


def allowed(settings: Settings, storage: Storage | None = None) -> dict[str, Path | str]:
    """The notebooks that may run, by name: a file, or an address in the object store.

    The project's own win over those of folders, and those over buckets'.
    """
    found: dict[str, Path | str] = dict(_in_folders(settings))
    for root in _buckets(settings):
        bucket, _, folder = root.removeprefix(SCHEME).partition("/")
        for name in (storage or _storage(settings)).children(bucket, folder):
            if name.endswith(".ipynb") and re.fullmatch(NAME, name.removesuffix(".ipynb")):
                found.setdefault(name.removesuffix(".ipynb"), f"{root}/{name}")
    return found


def describe(name: str, settings: Settings, storage: Storage | None = None) -> Description:
    """A notebook by its own words: the first heading, and the paragraph below it."""
    title, text, parameters, problem = "", "", (), None
    try:
        path = _find(name, settings, storage)
        title, text = _words(path, path.stat().st_mtime_ns)
        parameters = _inspect(path, path.stat().st_mtime_ns)
    except InvalidConfig as error:
        problem = error.message
    return Description(name, title or name, text, tuple(parameter for _, parameter in parameters), problem)


def parameters_of(name: str, settings: Settings, storage: Storage | None = None) -> dict[str, Parameter]:
    """The parameters of an allowed notebook. Raises InvalidConfig if it is not allowed or cannot take parameters."""
    path = _find(name, settings, storage)
    return dict(_inspect(path, path.stat().st_mtime_ns))


def check(name: str, parameters: dict[str, Value], settings: Settings, storage: Storage | None = None) -> None:
    """Raises InvalidConfig, with every error, if the notebook is not allowed or does not take these parameters."""
    known = parameters_of(name, settings, storage)
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


def run(
    name: str,
    parameters: dict[str, Value],
    out: Path,
    reporter: Reporter,
    timeout: int,
    settings: Settings,
    memory_mb: int | None = None,
    storage: Storage | None = None,
) -> NotebookRun:
    """Executes an allowed notebook into the file `out` and an .html beside it, its output and progress going to the reporter.

    Raises TrainingError when a cell fails, when the kernel dies, after `timeout` seconds, or when the kernel and its children have
    more than `memory_mb` MiB in memory; what had run by then is kept in both files, and the cell with its traceback is in the log.
    However it ends, the kernel and all processes that it started are gone.
    """
    check(name, parameters, settings, storage)
    from llm_platform.notebook_kernel import Execution

    started = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="notebook-", suffix=".tmp", dir=out.parent) as scratch:
        folder = Path(scratch)
        source = _find(name, settings, storage)
        execution = Execution(source, dict(parameters), out, folder, reporter, lambda text: _hidden(text, settings, folder))
        execution.start()
        error: TrainingError | None = None
        try:
            while not execution.done.wait(POLL_SECONDS):
                reporter.check_cancelled()
                if error := _limit(name, execution, time.monotonic() - started, timeout, memory_mb):
                    break
        finally:
            execution.stop()
            _hide_paths(out, settings, folder)
        if error is None and execution.error is not None:
            error = _failure(name, execution, settings)
    html = out.with_suffix(".html")
    if out.is_file():
        _render(out, html)
    if error is not None:
        if "traceback" in error.metadata:
            where = f"Cell {error.metadata['cell']}:\n{error.metadata['source']}\n"
            reporter.error("\n".join([where, *error.metadata["traceback"]]), cell=error.metadata["cell"])
        raise error from execution.error
    return NotebookRun(out, html, time.monotonic() - started, execution.current)


def _limit(name: str, execution: Execution, seconds: float, timeout: int, memory_mb: int | None) -> TrainingError | None:
    """Which limit an execution is over, if it is."""
    cell = execution.current
    if seconds > timeout:
        message = f"Notebook '{name}' did not finish within {timeout} seconds; it was in cell {cell}"
        return TrainingError(message, notebook=name, cell=cell, timeout=timeout)
    if memory_mb is not None and (used := execution.memory_mb()) > memory_mb:
        message = f"Notebook '{name}' used {used:,.0f} MiB of memory in cell {cell}; memory_mb allows {memory_mb:,}"
        return TrainingError(message, notebook=name, cell=cell, memory_mb=memory_mb)
    return None


def _in_folders(settings: Settings) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for root in (PROJECT_NOTEBOOKS, *(root for root in settings.notebook_roots if isinstance(root, Path))):
        folder = root.expanduser().resolve()
        for path in sorted(folder.glob("*.ipynb")):
            # A link that leads out of the folder is no notebook of the folder.
            if path.is_file() and path.resolve().parent == folder and re.fullmatch(NAME, path.stem):
                found.setdefault(path.stem, path.resolve())
    return found


def _buckets(settings: Settings) -> list[str]:
    return [root for root in settings.notebook_roots if isinstance(root, str)]


def _storage(settings: Settings) -> Storage:
    from llm_platform.storage import storage_from

    return storage_from(settings)


def _find(name: str, settings: Settings, storage: Storage | None) -> Path:
    """The notebook's file; of one in a bucket, a copy. What lies in a folder is found also while the object store does not answer."""
    if path := _in_folders(settings).get(name):
        return path
    storage = storage or (_storage(settings) if _buckets(settings) else None)
    notebooks = allowed(settings, storage)
    place = notebooks.get(name)
    if place is None:
        message = f"Unknown notebook '{name[:100]}'; allowed are {', '.join(notebooks) or 'none'}"
        raise InvalidConfig(message, errors=[{"field": "notebook", "agent": None, "message": message}])
    if isinstance(place, Path) or storage is None:  # a folder's, that was put there just now
        return Path(place)
    stat = storage.stat(place)
    if stat is None or stat.is_folder or stat.size_bytes > MAX_BYTES:
        raise _unusable(name, f"in its bucket is no file of at most {MAX_BYTES // 2**20} MiB")
    return storage.as_local(place, settings.work / "notebooks")


def _unusable(name: str, reason: str) -> InvalidConfig:
    message = f"Notebook '{name}' cannot be used: {reason}"
    return InvalidConfig(message, errors=[{"field": "notebook", "agent": None, "message": message}])


@lru_cache(maxsize=256)
def _inspect(path: Path, _changed: int) -> tuple[tuple[str, Parameter], ...]:
    """The parameters cell, read once for each version of the file."""
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        metadata = notebook.metadata
        tagged = [cell for cell in notebook.cells if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])]
    except Exception as error:  # nbformat raises whatever its JSON and schema libraries raise
        raise _unusable(path.stem, f"it is no notebook ({type(error).__name__})") from error
    language = metadata.get("kernelspec", {}).get("language") or metadata.get("language_info", {}).get("name") or "python"
    if language != "python":
        raise _unusable(path.stem, f"it is written in {language[:50]}; notebooks here are run by Python")
    if len(tagged) != 1:
        raise _unusable(path.stem, f"it needs one cell tagged 'parameters'; it has {len(tagged)}")
    try:
        found = _assignments(tagged[0].source)
    except SyntaxError as error:
        raise _unusable(path.stem, f"its parameters cell is no Python: {error.msg} in line {error.lineno}") from None
    return tuple((parameter.name, parameter) for parameter in found)


@lru_cache(maxsize=256)
def _words(path: Path, _changed: int) -> tuple[str, str]:
    """The first heading and the paragraph below it, read once for each version of the file; empty where there is none."""
    import nbformat

    try:
        cells = nbformat.read(path, as_version=4).cells
        source = next(cell.source for cell in cells if cell.cell_type == "markdown" and cell.source.lstrip().startswith("#"))
    except Exception:  # nbformat raises whatever its JSON and schema libraries raise
        return "", ""
    heading, _, rest = source.strip().partition("\n")
    paragraph = rest.strip().partition("\n\n")[0]
    return heading.lstrip("#").strip(), "" if paragraph.startswith("#") else " ".join(paragraph.split())


def _assignments(source: str) -> list[Parameter]:
    """The assignments of a parameters cell. By Python's own grammar: papermill's inspection passes over `int | None` in silence."""
    comments = {
        token.start[0]: token.string.lstrip("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: list[Parameter] = []
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else getattr(node, "target", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name) and node.value is not None:
            annotation = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else None
            default = ast.get_source_segment(source, node.value) or ""
            found.append(_parameter(target.id, annotation, default, node.value, comments.get(node.end_lineno or 0, "")))
    return found


def _parameter(name: str, annotation: str | None, default: str, value: ast.expr, help: str) -> Parameter:
    """The type is that of the default where the cell gives no annotation."""
    try:
        literal = ast.literal_eval(value)
    except ValueError:
        literal = ...
    inner = re.fullmatch(r"Optional\[(\w+)\]|(\w+) \| None|None \| (\w+)", annotation or "")
    kind = annotation if annotation is not None else "" if literal is None or literal is ... else type(literal).__name__
    if inner is not None:
        kind = next(part for part in inner.groups() if part is not None)
    shown = literal if isinstance(literal, str | int | float | bool) else None
    return Parameter(name, kind, inner is not None or literal is None, default, shown, help)


def _shown(value: Value) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:50]!r}"


def _failure(name: str, execution: Execution, settings: Settings) -> TrainingError:
    """What a person needs to know about a notebook that did not come through."""
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    error, cell = execution.error, execution.current
    if isinstance(error, PapermillExecutionError):
        lines = _hidden(ANSI.sub("", "\n".join(error.traceback)), settings, execution.scratch).splitlines()[-TRACEBACK_LINES:]
        return TrainingError(
            f"Notebook '{name}' failed in cell {cell}: {error.ename}: {_hidden(error.evalue, settings, execution.scratch)[:500]}",
            notebook=name,
            cell=cell,
            source=error.source,
            traceback=lines,
        )
    if isinstance(error, DeadKernelError):
        message = f"The kernel of notebook '{name}' died in cell {cell}; it may have used more memory than there is"
        return TrainingError(message, notebook=name, cell=cell)
    return TrainingError(f"Notebook '{name}' could not be run: {type(error).__name__}", notebook=name)


def _hide_paths(ipynb: Path, settings: Settings, scratch: Path) -> None:
    """Where the files lie on this machine is nobody's business who reads the notebook later."""
    import nbformat

    if not ipynb.is_file():
        return
    notebook = nbformat.read(ipynb, as_version=4)
    noted = notebook.metadata.get("papermill", {})
    for key in ("input_path", "output_path"):
        if noted.get(key):
            noted[key] = Path(noted[key]).name
    parameters = noted.get("parameters", {})
    parameters |= {key: _hidden(value, settings, scratch) for key, value in parameters.items() if isinstance(value, str)}
    for cell in notebook.cells:
        cell.source = cell.source.replace(str(settings.root), HIDDEN)
        for output in cell.get("outputs", []):
            for part in (output, output.get("data", {})):
                for key in ("text", "text/plain", "text/html", "text/markdown", "evalue", "traceback"):
                    found = part.get(key)
                    if isinstance(found, str):
                        part[key] = _hidden(found, settings, scratch)
                    elif isinstance(found, list):
                        part[key] = [_hidden(line, settings, scratch) for line in found]
    nbformat.write(notebook, ipynb)


def _hidden(text: str, settings: Settings, scratch: Path) -> str:
    """A traceback says which library a frame is in, not where on the machine that lies."""
    text = text.replace(str(scratch), ".").replace(str(settings.root), HIDDEN)
    for folder in sorted({*sys.path, sys.prefix, sys.base_prefix, str(PROJECT_NOTEBOOKS.parent)}, key=len, reverse=True):
        if len(folder) > 1:
            text = text.replace(f"{folder}/", "")
    return text


def _render(ipynb: Path, html: Path) -> None:
    """The notebook as one HTML file beside it."""
    import nbformat

    from llm_platform.notebook_page import page

    html.write_text(page(nbformat.read(ipynb, as_version=4)), encoding="utf-8")
