"""What README, docs and examples say is true: links lead somewhere, examples parse, commands and names exist."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from llm_platform import errors
from llm_platform.client import Client
from llm_platform.settings import Settings
from llm_platform.specs import AgentClass, parse_job_request, parse_pipeline
from llm_platform.specs.agents import CONFIGS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "notebooks/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.json"))
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text()) if kind == language]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_examples_are_pipelines_that_the_platform_takes(path: Path) -> None:
    assert parse_job_request(json.loads(path.read_text())).nodes


def test_the_examples_use_every_agent_class() -> None:
    used = {node.agent_class for path in EXAMPLES for node in parse_job_request(json.loads(path.read_text())).nodes}
    assert used == set(AgentClass)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_json_is_json_and_files_that_commands_read_are_there(page: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block)
    for block in blocks(page, "bash"):
        for path in re.findall(r"(?:@|-m )?((?:examples|notebooks)/[\w./-]+)", block):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_and_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", "\n".join(re.findall(r"`[^`\n]+`|^make .*", page.read_text(), re.MULTILINE)))) <= targets
    commands = set(re.findall(r"^def (\w+)\(|^app.add_typer\((\w+)", (ROOT / "llm_platform/cli.py").read_text(), re.MULTILINE))
    assert set(re.findall(r"llm-platform (?!is\b)([a-z-]+)\b", "\n".join(blocks(page, "bash")))) <= {
        name.replace("_", "-") for pair in commands for name in pair
    }


class Literal(ast.NodeTransformer):
    """Names and attributes become text that is valid wherever the pages use them: as a base model or a dataset id."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant("llm-platform/tiny-llama")

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Constant("ds_abc123")


def pipelines(code: str) -> list[dict[str, Any]]:
    """The dictionaries with nodes and edges that a Python block writes out."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Dict) and {"nodes", "edges"} <= {key.value for key in node.keys if isinstance(key, ast.Constant)}:
            found.append(ast.literal_eval(ast.fix_missing_locations(Literal().visit(node))))
    return [config for config in found if config["nodes"] != [...]]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_is_python_and_its_pipelines_are_taken(page: Path) -> None:
    for block in blocks(page, "python"):
        for config in pipelines(block):
            assert parse_pipeline(config).nodes


def test_the_pages_show_pipelines_in_python() -> None:
    shown = [page.name for page in PAGES for block in blocks(page, "python") if pipelines(block)]
    assert shown == ["README.md", "first-fine-tuning.md"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_calls_of_the_sdk_exist(page: Path) -> None:
    with Client() as client:
        for group, method in re.findall(r"client\.(datasets|jobs|logs|models)\.(\w+)", page.read_text()):
            assert callable(getattr(getattr(client, group), method)), f"client.{group}.{method}"


def test_the_table_of_errors_is_the_tree_of_errors() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|.*\| `(\w+)` \|$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    documented = {(code, int(status), cls) for code, status, cls in rows}
    before_requests = {("VALIDATION_ERROR", 431, "InvalidInput")}  # a head that is too large, which no class is about
    assert documented == before_requests | {(cls.code, cls.status, cls.__name__) for cls in errors.error_classes()}


def test_the_table_of_agents_names_real_fields() -> None:
    rows = re.findall(r"^\| `(\w+Agent)` \| [^|]*\| ([^|]*) \|$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert {agent for agent, _ in rows} == set(AgentClass)
    for agent, text in rows:
        fields = set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", text)))
        assert fields and fields <= set(CONFIGS[AgentClass(agent)].model_fields), agent


def test_settings_that_the_pages_name_exist() -> None:
    for page in PAGES:
        for setting in re.findall(r"LLM_PLATFORM_([A-Z_0-9]+)", page.read_text()):
            assert not setting or setting.lower() in {*Settings.model_fields, "secrets_dir", "api_key"}, setting  # the last is the SDK's


def test_the_table_of_settings_is_the_settings() -> None:
    rows = re.findall(r"^\| `([A-Z_0-9]+)` \|", (ROOT / "docs/deployment.md").read_text(), re.MULTILINE)
    assert sorted(name.lower() for name in rows) == sorted(Settings.model_fields)
