"""A user's own notebook in an allowed bucket of a real S3, or of the embedded store: found, inspected, checked and run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from pydantic import ValidationError

from llm_platform import notebooks
from llm_platform.agents import Node, Platform, run_node
from llm_platform.cli import app
from llm_platform.errors import InvalidConfig, StorageError
from llm_platform.notebooks import MAX_BYTES
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings
from llm_platform.storage import Storage, storage_from
from tests.servers import rclone_s3

ROOTS = ["s3://notebooks", "s3://shared/team"]
PARAMETERS = 'who: str = "you"  # whom to greet\n'


def notebook(tmp_path: Path, parameters: str = PARAMETERS, *cells: str) -> Path:
    made = nbformat.v4.new_notebook()
    made.cells = [
        nbformat.v4.new_markdown_cell("# Says hello\n\nTo one person."),
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *(nbformat.v4.new_code_cell(source) for source in cells),
    ]
    path = tmp_path / "made.ipynb"
    nbformat.write(made, path)
    return path


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with rclone_s3(tmp_path_factory.mktemp("s3")) as server:
        yield {"s3_endpoint": server.endpoint, "s3_access_key": server.access_key, "s3_secret_key": server.secret_key}


@pytest.fixture(params=["local", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    keys = request.getfixturevalue("s3") if request.param == "s3" else {}
    return Settings(home=tmp_path / "home", notebook_roots=[*ROOTS], **keys)


@pytest.fixture
def storage(settings: Settings) -> Storage:
    """With nothing in the two places, whatever earlier tests put into the one S3."""
    found = storage_from(settings)
    for bucket, folder, root in (("notebooks", "", ROOTS[0]), ("shared", "team", ROOTS[1])):
        for name in found.children(bucket, folder):
            found.delete(f"{root}/{name}")
    return found


def test_they_are_found_and_inspected(settings: Settings, storage: Storage, tmp_path: Path) -> None:
    assert set(notebooks.allowed(settings, storage)) == {path.stem for path in notebooks.PROJECT_NOTEBOOKS.glob("*.ipynb")}
    storage.put_file(notebook(tmp_path), "s3://notebooks/greeting.ipynb")
    storage.put_file(notebook(tmp_path), "s3://shared/team/other.ipynb")
    storage.put_file(notebook(tmp_path), "s3://shared/theirs.ipynb")
    storage.put_file(notebook(tmp_path), "s3://notebooks/below/hidden.ipynb")
    storage.put_file(notebook(tmp_path), "s3://notebooks/not a name.ipynb")
    storage.put_file(notebook(tmp_path, "mine: int = 1\n"), "s3://notebooks/evaluate_model.ipynb")
    found = notebooks.allowed(settings, storage)
    assert (found["greeting"], found["other"]) == ("s3://notebooks/greeting.ipynb", "s3://shared/team/other.ipynb")
    assert not {"theirs", "hidden", "not a name"} & set(found)
    assert found["evaluate_model"] == notebooks.PROJECT_NOTEBOOKS / "evaluate_model.ipynb"
    described = notebooks.describe("greeting", settings, storage)
    assert (described.title, described.text, described.problem) == ("Says hello", "To one person.", None)
    assert [(one.name, one.type, one.value, one.help) for one in described.parameters] == [("who", "str", "you", "whom to greet")]
    with pytest.raises(InvalidConfig, match="no parameter 'whom'; it has who"):
        notebooks.check("greeting", {"whom": "x"}, settings, storage)
    with pytest.raises(InvalidConfig, match=r"Unknown notebook 'nothing'; allowed are .*greeting"):
        notebooks.check("nothing", {}, settings, storage)


def test_a_changed_one_is_read_again_and_one_that_is_gone_is_unknown(settings: Settings, storage: Storage, tmp_path: Path) -> None:
    storage.put_file(notebook(tmp_path), "s3://notebooks/greeting.ipynb")
    notebooks.check("greeting", {"who": "ada"}, settings, storage)
    storage.put_file(notebook(tmp_path, "whom: str = ''\n"), "s3://notebooks/greeting.ipynb")
    notebooks.check("greeting", {"whom": "ada"}, settings, storage)
    storage.delete("s3://notebooks/greeting.ipynb")
    with pytest.raises(InvalidConfig, match="Unknown notebook 'greeting'"):
        notebooks.check("greeting", {}, settings, storage)


def test_what_is_no_notebook_is_listed_with_its_problem(settings: Settings, storage: Storage, tmp_path: Path) -> None:
    storage.put_bytes(b"no notebook", "s3://notebooks/text.ipynb")
    storage.put_file(notebook(tmp_path), "s3://notebooks/folder.ipynb/inner.ipynb")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    storage.put_file(tmp_path / "large", "s3://notebooks/large.ipynb")
    problems = {name: notebooks.describe(name, settings, storage).problem or "" for name in ("text", "folder", "large")}
    assert "it is no notebook" in problems["text"]
    assert "no file of at most 64 MiB" in problems["folder"] and "no file of at most 64 MiB" in problems["large"]
    with pytest.raises(InvalidConfig, match="'large' cannot be used"):
        notebooks.check("large", {}, settings, storage)


def test_a_node_runs_one(settings: Settings, storage: Storage, tmp_path: Path) -> None:
    storage.put_file(notebook(tmp_path, PARAMETERS, "print('hello', who)"), "s3://notebooks/greeting.ipynb")
    platform = Platform.from_settings(settings, storage)
    config = {"notebook": "greeting", "parameters": {"who": "ada"}}
    node = {"run_id": "r", "agent_name": "n", "agent_class": "NotebookAgent", "inputs": [], "peers": 1, "config": config}
    reporter = ListReporter()
    result = run_node(platform, Node.from_dict(node), reporter)
    platform.close()
    assert result.artifacts["notebook"] == "s3://artifacts/r/notebooks/n/greeting.ipynb"
    assert "hello ada" in [text for level, text, _ in reporter.lines if level == "INFO"]


def test_a_store_that_is_down_is_said_and_folders_go_on(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, notebook_roots=["s3://notebooks"], s3_endpoint="http://127.0.0.1:1", s3_access_key="k", s3_secret_key="s"
    )
    notebooks.check("evaluate_model", {}, settings)
    with pytest.raises(StorageError):
        notebooks.check("mine", {}, settings)


def test_cp_puts_one_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    monkeypatch.setenv("LLM_PLATFORM_NOTEBOOK_ROOTS", '["s3://notebooks"]')
    command = ["cp", str(notebook(tmp_path)), "s3://notebooks/mine.ipynb", "--home", str(tmp_path / "home")]
    assert CliRunner().invoke(app, command).exit_code == 0
    notebooks.check("mine", {"who": "x"}, Settings(home=tmp_path / "home"))
    assert CliRunner().invoke(app, [*command[:2], "s3://elsewhere/mine.ipynb", *command[3:]]).exit_code != 0


@pytest.mark.parametrize("root", ["s3://", "s3://Upper", "s3://notebooks/", "s3://notebooks/../x", "s3:/notebooks", "s3://notebooks//x"])
def test_an_address_that_is_none_is_refused(root: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="s3://bucket/folder"):
        Settings(home=tmp_path, notebook_roots=[root])
