"""The audit log over real HTTP and on the command line: every deed is in it, and only admins read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from llm_platform import audit, keys
from llm_platform.cli import app
from llm_platform.database import Database, now
from llm_platform.settings import Settings
from llm_platform.specs.keys import KeyRequest, Scope
from tests.api.api_harness import CSV, Api, Start, body, wait_until

As = Callable[..., httpx.Client]


@pytest.fixture(scope="module")
def guarded(start: Start) -> Iterator[Api]:
    with start(authentication=True) as api:
        api.put()
        yield api


@pytest.fixture
def as_(guarded: Api) -> Iterator[As]:
    """A client that sends a new key of that user and scope."""
    made: list[httpx.Client] = []

    def client(owner: str, scope: Scope = "write") -> httpx.Client:
        key = keys.create(KeyRequest(owner=owner, scope=scope), guarded.services.database).key
        made.append(httpx.Client(base_url=guarded.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30))
        return made[-1]

    yield client
    for found in made:
        found.close()


def key_id(client: httpx.Client) -> str:
    return client.headers["authorization"].split("_")[1]


def entries(client: httpx.Client, **filters: Any) -> list[dict[str, Any]]:
    answer = client.get("/audit", params={"limit": 100, **filters})
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def test_who_did_what(guarded: Api, as_: As) -> None:
    ada, root = as_("ada"), as_("root", "admin")
    began = now()
    answer = ada.post("/datasets/upload", files={"file": ("rows.csv", CSV)}, headers={"X-Request-ID": "the-upload"})
    assert ada.post("/jobs", json=body("deeds")).status_code == 200
    assert ada.delete("/jobs/job_deeds").status_code == 200
    # At once, unless its run is just being made: then as soon as it is there.
    wait_until(lambda: ada.get("/jobs/job_deeds").json()["status"] == "cancelled")
    assert ada.post("/jobs/job_deeds/retry").status_code == 200
    made = root.post("/keys", json={"owner": "bob"}).json()
    assert root.delete(f"/keys/{made['key_id']}").status_code == 200
    done = entries(root, since=began.isoformat())
    assert [(entry["actor"], entry["key_id"], entry["action"], entry["target"]) for entry in reversed(done)] == [
        ("ada", key_id(ada), "dataset.upload", answer.json()["dataset_id"]),
        ("ada", key_id(ada), "job.submit", "job_deeds"),
        ("ada", key_id(ada), "job.cancel", "job_deeds"),
        ("ada", key_id(ada), "job.retry", "job_deeds"),
        ("root", key_id(root), "key.create", made["key_id"]),
        ("root", key_id(root), "key.revoke", made["key_id"]),
    ]
    first = done[-1]
    assert (first["client"], first["request_id"]) == ("127.0.0.1", "the-upload") and first["at"].endswith("Z")


def test_what_was_refused_is_no_deed_but_denied_access_is(guarded: Api, as_: As) -> None:
    reader, root = as_("eve", "read"), as_("root", "admin")
    began = now()
    assert root.post("/jobs", json={}).status_code == 400
    assert root.delete("/keys/none").status_code == 404
    assert reader.post("/jobs", json=body()).status_code == 403
    assert reader.get("/audit").status_code == 403
    assert guarded.client.get("/jobs/a%00b?key=secret").status_code == 401
    done = entries(root, since=began.isoformat())
    assert [(entry["actor"], entry["key_id"], entry["action"], entry["target"]) for entry in reversed(done)] == [
        ("eve", key_id(reader), "access.denied", "POST /api/v1/jobs"),
        ("eve", key_id(reader), "access.denied", "GET /api/v1/audit"),
        (None, None, "access.denied", "GET /api/v1/jobs/a%00b"),
    ]


def test_pages_and_filters(guarded: Api, as_: As) -> None:
    ada, eve, root = as_("adam"), as_("evelyn", "read"), as_("root", "admin")
    for number in range(3):
        assert ada.post("/jobs", json=body(f"filtered{number}")).status_code == 200
        assert eve.delete(f"/jobs/job_filtered{number}").status_code == 403
    page = root.get("/audit", params={"actor": "adam", "limit": 2}).json()
    assert [item["target"] for item in page["items"]] == ["job_filtered2", "job_filtered1"]
    assert (page["total"], page["limit"], page["offset"], page["has_more"]) == (3, 2, 0, True)
    rest = root.get("/audit", params={"actor": "adam", "limit": 2, "offset": 2}).json()
    assert [item["target"] for item in rest["items"]] == ["job_filtered0"] and rest["has_more"] is False
    assert {entry["actor"] for entry in entries(root, action="access.denied")} >= {"evelyn"}
    assert entries(root, actor="evelyn", action="job.submit") == []
    middle = page["items"][1]["at"]
    assert [entry["target"] for entry in entries(root, actor="adam", since=middle)] == ["job_filtered2", "job_filtered1"]
    assert entries(root, since=(now() + timedelta(hours=1)).isoformat()) == []


@pytest.mark.parametrize(
    "filters",
    [
        {"action": "job.explode"},
        {"since": "yesterday"},
        {"since": "2026-01-01T00:00:00"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"since": "9999-12-31T23:59:59-14:00"},
        {"actor": "a\0b"},
        {"actor": ""},
        {"limit": 101},
    ],
)
def test_filters_that_are_none(as_: As, filters: dict[str, Any]) -> None:
    answer = as_("root", "admin").get("/audit", params=filters)
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR")


def test_nothing_changes_or_deletes_an_entry(guarded: Api, as_: As) -> None:
    root = as_("root", "admin")
    assert root.post("/keys", json={"owner": "bob"}).status_code == 200
    before = entries(root)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert root.request(method, "/audit").status_code == 405
        assert root.request(method, f"/audit/{before[0]['entry_id']}").status_code == 404
    assert entries(root)[: len(before)] == before


def test_without_authentication_nobody_is_named(api: Api) -> None:
    dataset_id = api.upload().json()["dataset_id"]
    (entry,) = api.client.get("/audit").json()["items"]
    assert (entry["actor"], entry["key_id"], entry["target"], entry["client"]) == (None, None, dataset_id, "127.0.0.1")


def test_the_command_line(guarded: Api, as_: As) -> None:
    home = ["--home", str(guarded.services.settings.root)]
    run = CliRunner().invoke
    assert run(app, ["keys", "create", "carol", *home]).exit_code == 0
    as_("dave", "read").post("/jobs")
    shown = run(app, ["audit", "--limit", "2", *home])
    assert shown.exit_code == 0
    denied, created = shown.stdout.splitlines()
    assert "dave" in denied and denied.endswith("access.denied          POST /api/v1/jobs  127.0.0.1")
    assert "key.create" in created and created.endswith("command line")
    assert "older entries are not shown" in shown.stderr
    assert run(app, ["audit", "--actor", "dave", "--action", "access.denied", "--since", "2020-01-01", *home]).stdout.count("\n") == 1
    assert run(app, ["audit", "--since", "2999-01-01", *home]).stdout == ""
    assert "the actions are dataset.upload" in str(run(app, ["audit", "--action", "x", *home]).exception)


def test_what_the_command_line_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, run = tmp_path / "home", CliRunner().invoke
    (tmp_path / "rows.csv").write_bytes(CSV)
    monkeypatch.setattr("llm_platform.supervisor.restart.restart_api", lambda settings: (1, 2))
    monkeypatch.setattr("llm_platform.models.reindex", lambda registry, database: 3)
    pruned = {
        "dry_run": False,
        "cutoff": "2026-01-01T00:00:00Z",
        "items": [{"kind": "log", "name": "job_a", "size_bytes": 5}],
        "skipped": [],
    }
    ended = [
        CompletedProcess([], 0, json.dumps({**pruned, "dry_run": True})),
        CompletedProcess([], 0, json.dumps(pruned)),
        CompletedProcess([], 1),
    ]
    monkeypatch.setattr("llm_platform.retention_view.subprocess.run", lambda *_, **__: ended.pop(0))
    commands = [
        ["cp", str(tmp_path / "rows.csv"), "s3://datasets/rows.csv"],
        ["cp", str(tmp_path / "rows.csv"), "s3://elsewhere/rows.csv"],
        ["prune", "--older-than", "30d"],
        ["prune", "--older-than", "30d", "--yes"],
        ["prune", "--older-than", "12h", "--yes"],
        ["reindex"],
        ["restart-api"],
    ]
    done = [run(app, [*command, "--home", str(home)]).exit_code for command in commands]
    assert done == [0, 1, 0, 0, 1, 0, 0]
    assert run(app, ["backup", str(tmp_path / "kept"), "--home", str(home)]).exit_code == 0
    assert run(app, ["restore", str(tmp_path / "kept"), "--home", str(tmp_path / "again")]).exit_code == 0
    database = Database.from_settings(Settings(home=tmp_path / "again"))
    found, _ = audit.listed(database, 100)
    database.close()
    assert all((entry.actor, entry.client) == (None, None) for entry in found)
    assert [(entry.action, entry.target) for entry in reversed(found)] == [
        ("store.put", "s3://datasets/rows.csv"),
        ("store.prune", "older than 30 days: 1 things, 5 bytes"),
        ("store.prune", "older than 0.5 days; broke off"),
        ("models.reindex", "3 models"),
        ("api.restart", "process 1, now 2"),
        ("platform.restore", "from kept"),
    ]
