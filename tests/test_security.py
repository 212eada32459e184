"""What the whole source must never do, and that docs/security.md names tests that there are."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from llm_platform.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("llm_platform", "dagster_project", "api", "notebooks") for path in (ROOT / folder).rglob("*.py"))
PAGE = ROOT / "docs" / "security.md"

NEVER = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "pickle.load": "runs what the file says",
    "torch.load": "unpickles",
    "joblib.load": "unpickles",
    "marshal.loads": "reads code",
    "yaml.load": "makes objects that the text names",
    "yaml.unsafe_load": "makes objects that the text names",
    "tempfile.mktemp": "leaves time for another to take the name",
}
ONLY_IN = {"pickle.loads": {"llm_platform/data/ray_engine.py"}}
"""Between the processes of one Ray cluster, which run each other's code anyway."""


@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """(file, dotted name, call) of every call in the product."""
    return [
        (str(path.relative_to(ROOT)), ast.unparse(node.func), node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(item.value) for item in call.keywords if item.arg == name), None)


def test_no_text_or_file_becomes_code() -> None:
    found = [(file, name, NEVER[name]) for file, name, _ in calls() if name in NEVER]
    found += [(file, name, "unpickles") for file, name, _ in calls() if name in ONLY_IN and file not in ONLY_IN[name]]
    assert found == []


def test_no_shell_is_started() -> None:
    assert [(file, name) for file, name, call in calls() if keyword(call, "shell") not in (None, "False")] == []


def test_models_are_loaded_from_safetensors_and_bring_no_code() -> None:
    models = [(file, call) for file, name, call in calls() if re.search(r"AutoModel\w*\.from_(pretrained|config)$", name)]
    assert len(models) >= 3
    for file, call in models:
        if ast.unparse(call.func).endswith("from_pretrained"):
            assert keyword(call, "use_safetensors") == "True", f"{file}:{call.lineno}"
    asked = {(file, keyword(call, "trust_remote_code")) for file, _, call in calls()} - {(file, None) for file, _, _ in calls()}
    assert asked and {value for _, value in asked} == {"False"}, asked


def test_archives_are_unpacked_with_tarfiles_own_filter() -> None:
    unpacked = [(file, ast.unparse(call)) for file, name, call in calls() if name.endswith((".extractall", ".extract", "unpack_archive"))]
    assert unpacked
    for file, text in unpacked:
        assert "filter='data'" in text or (file, text) == ("llm_platform/client/archives.py", "bundle.extractall(folder)"), text


def rows() -> list[list[str]]:
    """The cells of the page's table of inputs."""
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"^\|.*`tests/", line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_what_the_page_says_is_tested_is_tested(row: list[str]) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[-1])
    assert len(named) == row[-1].count("`tests/")
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"


def test_the_page_has_a_row_for_each_kind_of_input() -> None:
    assert len(rows()) >= 40


def test_a_new_home_folder_is_its_owners_alone(tmp_path: Path) -> None:
    assert Settings(home=tmp_path / "new" / "home").root.stat().st_mode & 0o077 == 0
