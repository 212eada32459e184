"""Notebooks over HTTP: what may run, what ran, and that a notebook's output can do nothing in the API's origin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest

from llm_platform import Client, keys
from llm_platform.agents import Node, Platform, run_node
from llm_platform.errors import NotFound, TrainingError
from llm_platform.reporting import ListReporter
from llm_platform.specs.keys import KeyRequest
from tests.api.api_harness import Api, Start

PARAMETERS = 'who: str = "you"  # whom to greet\nmost: int | None = None\nsteps = 3\nwhere: list = [1, 2]\n'
HOSTILE = """\
from IPython.display import HTML, Javascript, display
print("hello", who)
display(HTML("<script>alert('in')</script><b onclick='alert(2)'>bold</b><iframe src='https://evil.example'></iframe>"))
display(HTML("<a href='javascript:alert(3)'>link</a><img src='https://evil.example/pixel.png'><form action='/api/v1/keys'></form>"))
display(Javascript("alert('js')"))
"""


@pytest.fixture(scope="module")
def ran(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with authentication on; ada's job `greets` has run a notebook, and her job `breaks` one that fails."""
    folder = tmp_path_factory.mktemp("notebooks")
    write(folder / "greeting.ipynb", PARAMETERS, HOSTILE)
    write(folder / "broken.ipynb", "x: int = 1\n", "print('so far')", "1 / (x - 1)")
    write(folder / "bare.ipynb", None, "1 + 1")
    with start(authentication=True, notebook_roots=[folder, "s3://notebooks"]) as api, client(api, "ada") as ada:
        api.services.storage.put_file(folder / "greeting.ipynb", "s3://notebooks/from_a_bucket.ipynb")
        execute(api, ada, "greets", "greeting", who="ada")
        with pytest.raises(TrainingError, match="failed in cell 3: ZeroDivisionError"):
            execute(api, ada, "breaks", "broken")
        yield api


@pytest.fixture
def ada(ran: Api) -> Iterator[httpx.Client]:
    with client(ran, "ada") as found:
        yield found


def write(path: Path, parameters: str | None, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Says hello\n\nTo *one* person,\npolitely.\n\nMore.")])
    if parameters is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells.extend(nbformat.v4.new_code_cell(source) for source in cells)
    nbformat.write(notebook, path)


def client(api: Api, owner: str) -> httpx.Client:
    key = keys.create(KeyRequest(owner=owner, scope="write"), api.services.database).key
    return httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30)


def body(run_id: str, notebook: str, **parameters: Any) -> dict[str, Any]:
    node = {"agent_name": "report", "agent_class": "NotebookAgent", "config": {"notebook": notebook, "parameters": parameters}}
    return {"pipeline_config": {"run_id": run_id, "nodes": [node], "edges": []}}


def execute(api: Api, sender: httpx.Client, run_id: str, notebook: str, **parameters: Any) -> None:
    """Submits the job, and runs its node as the platform would."""
    config = body(run_id, notebook, **parameters)
    assert sender.post("/jobs", json=config).status_code == 200
    (node,) = config["pipeline_config"]["nodes"]
    platform = Platform(api.services.settings, api.services.database, api.services.storage)
    run_node(platform, Node.from_dict({**node, "run_id": run_id, "inputs": [], "peers": 1}), ListReporter())


def test_the_list_says_what_each_notebook_takes(ada: httpx.Client) -> None:
    found = ada.get("/notebooks", params={"limit": 100}).json()
    by_name = {item["name"]: item for item in found["items"]}
    assert list(by_name) == sorted(by_name) and found["total"] == len(by_name) and not found["has_more"]
    assert {"explore_dataset", "evaluate_model", "finetune", "compare_models", "playground", "greeting", "from_a_bucket"} <= set(by_name)
    assert all(item["title"] and item["description"] and item["parameters"] for item in found["items"] if item["problem"] is None)
    greeting = by_name["greeting"]
    assert (greeting["title"], greeting["description"]) == ("Says hello", "To *one* person, politely.")
    assert greeting["parameters"] == [
        {"name": "who", "type": "str", "optional": False, "default": "you", "help": "whom to greet"},
        {"name": "most", "type": "int", "optional": True, "default": None, "help": ""},
        {"name": "steps", "type": "int", "optional": False, "default": 3, "help": ""},
        {"name": "where", "type": "list", "optional": False, "default": None, "help": ""},
    ]
    assert by_name["from_a_bucket"] == {**greeting, "name": "from_a_bucket"}
    assert "one cell tagged 'parameters'; it has 0" in by_name["bare"]["problem"] and by_name["bare"]["parameters"] == []
    second = ada.get("/notebooks", params={"limit": 1, "offset": 1}).json()
    assert [item["name"] for item in second["items"]] == [list(by_name)[1]] and second["has_more"]


@pytest.mark.parametrize(
    ("notebook", "parameters", "says"),
    [
        ("nothing", {}, "Unknown notebook 'nothing'"),
        ("greeting", {"whom": "x"}, "no parameter 'whom'; it has who, most, steps, where"),
        ("greeting", {"steps": "3"}, "must be int, not str '3'"),
        ("greeting", {"where": "x"}, "must be list, not str 'x'"),
        ("from_a_bucket", {"steps": "3"}, "must be int, not str '3'"),
        ("bare", {}, "needs one cell tagged 'parameters'"),
        ("explore_dataset", {"table_path": "/etc/passwd"}, "is a file on the platform's machine"),
        ("finetune", {"platform_url": "http://10.0.0.1"}, "is an address"),
    ],
)
def test_bad_notebooks_and_parameters_are_refused_before_the_job_is_accepted(
    ada: httpx.Client, notebook: str, parameters: dict[str, Any], says: str
) -> None:
    answer = ada.post("/jobs", json=body("refused", notebook, **parameters))
    assert (answer.status_code, answer.json()["error"]) == (400, "CONFIG_ERROR") and says in answer.json()["message"]
    assert answer.json()["metadata"]["errors"][0]["agent"] == "report"
    assert ada.get("/jobs/job_refused").status_code == 404


@pytest.mark.parametrize("name", ["../greeting", "/etc/passwd", "greeting.ipynb", "a/b", ""])
def test_a_name_that_is_a_path_is_refused(ada: httpx.Client, name: str) -> None:
    answer = ada.post("/jobs", json=body("refused", name))
    assert answer.status_code == 400 and answer.json()["metadata"]["errors"][0]["field"].endswith("notebook")


@pytest.mark.parametrize("job", ["greets", "job_greets"])
def test_a_job_s_notebooks(ada: httpx.Client, job: str) -> None:
    found = ada.get(f"/jobs/{job}/notebooks").json()
    assert (found["total"], found["limit"], found["offset"], found["has_more"]) == (1, 20, 0, False)
    (item,) = found["items"]
    assert item["started_at"].endswith("Z") and item["ended_at"].endswith("Z") and item["seconds"] > 0
    shown = {name: item[name] for name in ("agent_name", "notebook", "status", "cells", "formats", "error")}
    assert shown == {
        "agent_name": "report",
        "notebook": "greeting",
        "status": "completed",
        "cells": 3,
        "formats": ["ipynb", "html"],
        "error": None,
    }


def test_what_a_failed_notebook_got_to_is_kept(ada: httpx.Client) -> None:
    (item,) = ada.get("/jobs/breaks/notebooks").json()["items"]
    assert (item["status"], item["formats"], item["cells"]) == ("failed", ["ipynb", "html"], None)
    assert item["error"]["error"] == "TRAINING_ERROR" and item["error"]["metadata"]["source"] == "1 / (x - 1)"
    page = ada.get("/jobs/breaks/notebooks/report", params={"format": "html"}).text
    assert "so far" in page and "ZeroDivisionError" in page


def test_the_notebook_as_it_ran(ran: Api, ada: httpx.Client) -> None:
    answer = ada.get("/jobs/greets/notebooks/report")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-ipynb+json"
    assert answer.headers["content-disposition"] == 'attachment; filename="greets-report.ipynb"'
    notebook = nbformat.reads(answer.text, as_version=4)
    nbformat.validate(notebook)
    assert any("hello ada" in output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert str(ran.services.settings.root) not in answer.text


@pytest.mark.parametrize("format", ["ipynb", "html"])
def test_a_notebook_that_the_client_has(ada: httpx.Client, format: str) -> None:
    path = f"/jobs/greets/notebooks/report?format={format}"
    first = ada.get(path)
    etag = first.headers["etag"]
    assert etag.startswith('W/"') and first.headers["content-encoding"] == "gzip", "weak, for compressed it is of other bytes"
    for tags in (etag, etag.removeprefix("W/"), f'"old", {etag}', "*"):
        again = ada.get(path, headers={"If-None-Match": tags})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag), tags
    assert ada.get(path, headers={"If-None-Match": '"old"'}).content == first.content


def test_the_page_can_do_nothing(ada: httpx.Client) -> None:
    answer = ada.get("/jobs/greets/notebooks/report", params={"format": "html"})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = answer.text
    assert "hello ada" in page and "<b>bold</b>" in page and "<title>Says hello</title>" in page
    shown = page[page.index("<body>") :].replace("&quot;", '"')
    output = shown[shown.rindex("hello ada") :]
    for gone in ("<script", "alert(", "onclick", "<iframe", "javascript:", "<form", "evil.example"):
        assert gone not in output
    for gone in ("<script", "<iframe", "<form", "<link", "<object"):
        assert gone not in page


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/jobs/nobody/notebooks", 404),
        ("/jobs/greets/notebooks/other", 404),
        ("/jobs/greets/notebooks/..%2F..%2Fetc", 404),
        ("/jobs/greets/notebooks/report?format=pdf", 400),
        ("/jobs/greets/notebooks?limit=0", 400),
    ],
)
def test_what_is_not_there(ada: httpx.Client, path: str, status: int) -> None:
    assert ada.get(path).status_code == status


def test_another_s_notebooks_are_not_there(ran: Api) -> None:
    with client(ran, "bob") as bob:
        for path in ("/jobs/greets/notebooks", "/jobs/job_greets/notebooks/report", "/jobs/greets/notebooks/report?format=html"):
            assert (bob.get(path).status_code, bob.get(path).json()["error"]) == (404, "NOT_FOUND")
    with httpx.Client(base_url=ran.url, trust_env=False) as nobody:
        assert nobody.get("/notebooks").status_code == 401


def test_the_sdk(ran: Api, tmp_path: Path) -> None:
    key = keys.create(KeyRequest(owner="ada", scope="read"), ran.services.database).key
    with Client(ran.url, api_key=key) as sdk:
        page = sdk.notebooks.list(limit=2)
        assert len(page) == 2 and page.has_more and page.total >= 8
        (item,) = sdk.jobs.notebooks("greets")
        assert (item.agent_name, item.status, item.formats) == ("report", "completed", ["ipynb", "html"])
        html = sdk.notebooks.download("job_greets", item.agent_name, path=tmp_path)
        assert html == tmp_path / "greets-report.html" and "hello ada" in html.read_text()
        ipynb = sdk.notebooks.download("greets", item.agent_name, format="ipynb", path=tmp_path / "new" / "mine.ipynb")
        nbformat.validate(nbformat.read(ipynb, as_version=4))
        with pytest.raises(NotFound, match="no notebook node 'other'"):
            sdk.notebooks.download("greets", "other", path=tmp_path / "none")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["greets-report.html", "new"]
