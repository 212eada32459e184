"""Holds the import walls of the architecture: who may import whom, in every file, also in functions and under TYPE_CHECKING."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "llm_platform": ("dagster*", "fastapi", "starlette", "api", "dagster_project", "notebooks", "tests"),
    "llm_platform/data": ("mlflow",),
    "llm_platform/training": ("mlflow",),
    "llm_platform/evaluation": ("mlflow",),
    "llm_platform/export": ("mlflow",),
    "llm_platform/storage": ("mlflow",),
    "dagster_project": ("fastapi", "starlette", "api", "mlflow", "notebooks", "tests"),
    "api": ("dagster_project", "mlflow", "notebooks", "tests"),
}
"""Folder: packages that no file below it imports."""

ONLY_IN = {
    "mlflow": ("llm_platform/registry/",),
    "dagster*": ("dagster_project/", "api/orchestrator.py"),
    "dagster_pipes": ("dagster_project/worker.py",),
}
"""Package: the files (or folders, with a slash) that may import it."""

LOWEST = {
    "llm_platform/errors.py": (),
    "llm_platform/specs": ("pydantic", "llm_platform.specs", "llm_platform.errors"),
}
"""Folder or file: all that it may import besides the standard library."""

FUNCTIONS = ("data", "training", "evaluation", "export", "registry", "storage")
"""Folders of plain functions. Of llm_platform they know each other and what is named here, but nobody who calls them."""
BELOW_FUNCTIONS = ("specs", "errors", "settings", "reporting")

LIGHT = ["llm_platform", "llm_platform.specs", "llm_platform.client", "llm_platform.cli", "llm_platform.settings", "llm_platform.runlog"]
SERVICES = ["api.main", "dagster_project.definitions", "llm_platform.supervisor.platform"]
SDK_PACKAGES = {"llm_platform", "httpx", "httpcore", "h11", "anyio", "sniffio", "idna", "certifi"} | {
    *("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions"),
}
HEAVY = ["torch", "transformers", "peft", "mlflow", "bitsandbytes"]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_a_folder_does_not_import_what_it_must_not_know(folder: str) -> None:
    assert not wrong_imports(folder, lambda name: any(matches(name, pattern) for pattern in FORBIDDEN[folder]))


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_imported_in_one_place_only(package: str) -> None:
    everywhere = [path for folder in ("llm_platform", "dagster_project", "api") for path in files(folder)]
    found = {str(path.relative_to(ROOT)) for path in everywhere for _, name in imports(path) if matches(name, package)}
    for allowed in ONLY_IN[package]:
        assert any(path.startswith(allowed) for path in found), f"{allowed} does not import {package} any more; is this test up to date?"
    assert not [path for path in found if not path.startswith(ONLY_IN[package])]


@pytest.mark.parametrize("layer", LOWEST)
def test_the_lowest_layers_import_only_what_lies_below(layer: str) -> None:
    allowed = (*sys.stdlib_module_names, *LOWEST[layer])
    assert not wrong_imports(layer, lambda name: not any(matches(name, package) for package in allowed))


@pytest.mark.parametrize("folder", FUNCTIONS)
def test_the_functions_of_the_library_do_not_know_who_calls_them(folder: str) -> None:
    known = [f"llm_platform.{name}" for name in (*FUNCTIONS, *BELOW_FUNCTIONS)]
    assert not wrong_imports(
        f"llm_platform/{folder}", lambda name: matches(name, "llm_platform") and not any(matches(name, package) for package in known)
    )


@pytest.mark.parametrize("module", [*LIGHT, *SERVICES])
def test_importing_a_light_module_imports_nothing_heavy(module: str) -> None:
    source = f"import json, sys, {module}; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = run(source)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_sdk_needs_only_httpx_and_pydantic() -> None:
    """Without extras only these two and what they need are installed: here everything else cannot be imported."""
    source = f"""
import sys

class OnlyTheSdk:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {SDK_PACKAGES!r} | sys.stdlib_module_names and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, OnlyTheSdk())
from llm_platform import Client
import llm_platform.specs
Client("http://127.0.0.1:9").close()
"""
    done = run(source)
    assert done.returncode == 0, done.stderr


def test_imports_are_found_wherever_they_are(tmp_path: Path) -> None:
    source = """
from __future__ import annotations
import a.b as c, d
if TYPE_CHECKING:
    from e import f
def g():
    try:
        import h
    except ImportError:
        importlib.import_module("i.j")
"""
    (tmp_path / "module.py").write_text(source)
    assert [name for _, name in imports(tmp_path / "module.py")] == ["__future__.annotations", "a.b", "d", "e.f", "h", "i.j"]
    assert matches("dagster_aws.s3", "dagster*") and matches("dagster", "dagster*") and not matches("dagster_project.stage", "dagster*")
    assert matches("api.main", "api") and not matches("apis", "api")


def wrong_imports(folder: str, wrong: Callable[[str], bool]) -> list[str]:
    """The imports below a folder that are wrong, as lines for a person."""
    found = [(path.relative_to(ROOT), line, name) for path in files(folder) for line, name in imports(path)]
    return [f"{path}:{line} imports {name}" for path, line, name in found if wrong(name)]


def files(folder: str) -> list[Path]:
    path = ROOT / folder
    found = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert found, f"no Python files in {folder}: was it renamed?"
    return found


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, wherever in it; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here, so that they can be checked"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"importlib.import_module", "import_module", "__import__"}:
            assert node.args and isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: an import that cannot be checked"
            yield node.lineno, str(node.args[0].value)


def matches(name: str, package: str) -> bool:
    """Whether a dotted name lies in a package; `dagster*` is Dagster with all its integrations, but not our own package."""
    if package == "dagster*":
        top = name.split(".")[0]
        return top == "dagster" or (top.startswith("dagster_") and top != "dagster_project")
    return name == package or name.startswith(f"{package}.")


def run(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT, timeout=120)
