"""API keys and owners over real HTTP: who is let in, what each scope may do, and that nobody sees what is another's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from llm_platform import Client, keys, runlog
from llm_platform.database import now
from llm_platform.errors import Forbidden, NotFound, Unauthorized
from llm_platform.registry import RegisteredModel
from llm_platform.specs.keys import KeyRequest, Scope
from llm_platform.tables import keys as keys_table
from tests.api.api_harness import Api, Start, body, wait_until

As = Callable[..., httpx.Client]


@pytest.fixture(scope="module")
def guarded(start: Start) -> Iterator[Api]:
    """One API with authentication on, for the whole module."""
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


def upload(client: httpx.Client) -> str:
    answer = client.post("/datasets/upload", files={"file": ("rows.csv", b"question,answer\nwhy?,because\n")})
    assert answer.status_code == 200, answer.text
    return answer.json()["dataset_id"]


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    found = answer.json()
    assert (answer.status_code, found["error"]) == (status, code) and set(found) == {"error", "message", "metadata"}, answer.text
    return found


# who is let in


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer llmp_unknown", "Basic YTpi", "llmp_x", "Bearer \xff\xfe"])
def test_without_a_good_key_nothing_is_told(guarded: Api, header: str | None) -> None:
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    for method, path in [("GET", "/jobs"), ("GET", "/nothing"), ("POST", "/jobs"), ("DELETE", "/jobs/job_x"), ("GET", "/keys")]:
        answer = guarded.client.request(method, path, headers=headers)
        refused(answer, 401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"] == "Bearer" and "x-ratelimit-limit" in answer.headers


def test_health_and_documentation_are_open(guarded: Api) -> None:
    base = guarded.url.removesuffix("/api/v1")
    assert guarded.client.get("/health").status_code in (200, 503)
    assert [httpx.get(base + path, trust_env=False).status_code for path in ("/docs", "/openapi.json")] == [200, 200]


def test_a_key_ends_when_it_is_revoked_or_expires(guarded: Api, as_: As) -> None:
    admin = as_("root", "admin")
    made = admin.post("/keys", json={"owner": "ada", "scope": "read", "expires_in_days": 1}).json()
    ada = {"Authorization": f"bearer {made['key']}"}
    assert guarded.client.get("/jobs", headers=ada).status_code == 200
    with guarded.services.database.write() as connection:
        past = now() - timedelta(seconds=1)
        connection.execute(sa.update(keys_table).where(keys_table.c.key_id == made["key_id"]).values(expires_at=past))
    expired = refused(guarded.client.get("/jobs", headers=ada), 401, "UNAUTHORIZED")
    other = admin.post("/keys", json={"owner": "ada"}).json()
    bob = {"Authorization": f"Bearer {other['key']}"}
    assert guarded.client.get("/jobs", headers=bob).status_code == 200
    revoked = admin.delete(f"/keys/{other['key_id']}")
    assert revoked.status_code == 200 and revoked.json()["revoked_at"] is not None
    assert refused(guarded.client.get("/jobs", headers=bob), 401, "UNAUTHORIZED") == expired
    assert admin.delete(f"/keys/{other['key_id']}").json() == revoked.json(), "revoked once"
    refused(admin.delete("/keys/none"), 404, "NOT_FOUND")


def test_a_key_is_shown_once_and_kept_nowhere(guarded: Api, as_: As, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    admin = as_("root", "admin")
    made = admin.post("/keys", json={"owner": "secretive", "scope": "write"}).json()
    secret = made.pop("key")
    assert len(secret) > 50
    listed = admin.get("/keys", params={"limit": 100})
    assert made in listed.json()["items"] and listed.json()["total"] >= 1
    answers = [
        listed.text,
        admin.get("/jobs", headers={"Authorization": f"Bearer {secret}x"}).text,
        admin.get("/keys", headers={"Authorization": f"Bearer {secret}"}).text,
        caplog.text,
    ]
    assert not any(secret in text for text in answers)
    files = [path for path in guarded.services.settings.root.rglob("*") if path.is_file()]
    assert files and not any(secret.encode() in path.read_bytes() for path in files)


def test_scopes(guarded: Api, as_: As) -> None:
    reader, writer, admin = as_("ada", "read"), as_("ada"), as_("root", "admin")
    assert reader.get("/jobs").status_code == 200
    for answer in (reader.post("/jobs", json=body("r")), reader.delete("/jobs/job_r"), reader.post("/preflight", json={})):
        assert refused(answer, 403, "FORBIDDEN")["metadata"] == {"needed": "write", "scope": "read"}
    assert writer.post("/jobs", json=body()).status_code == 200
    for method, path in [("GET", "/keys"), ("POST", "/keys"), ("DELETE", "/keys/x")]:
        assert (
            refused(writer.request(method, path, json={"owner": "ada", "scope": "admin"}), 403, "FORBIDDEN")["metadata"]["needed"]
            == "admin"
        )
    assert admin.get("/keys").status_code == 200


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "owner"),
        ({"owner": "a b"}, "owner"),
        ({"owner": "ada\n"}, "owner"),
        ({"owner": "ada", "scope": "root"}, "scope"),
        ({"owner": "ada", "expires_in_days": 0}, "expires_in_days"),
        ({"owner": "ada", "expires_in_days": True}, "expires_in_days"),
        ({"owner": "ada", "created_at": "2020-01-01"}, "created_at"),
    ],
)
def test_keys_that_are_not_made(as_: As, given: dict[str, Any], field: str) -> None:
    found = refused(as_("root", "admin").post("/keys", json=given), 400, "VALIDATION_ERROR")
    assert [error["field"] for error in found["metadata"]["errors"]] == [field]


# whose things are whose


def test_what_is_anothers_is_not_there(guarded: Api, as_: As) -> None:
    ada, again, bob, admin = as_("ada"), as_("ada", "read"), as_("bob"), as_("root", "admin")
    dataset_id, run_id = upload(ada), "adas"
    assert ada.post("/jobs", json=body(run_id)).status_code == 200
    runlog.append(guarded.services.database, run_id, [runlog.line("INFO", "ada's line")])
    paths = [f"/datasets/{dataset_id}{more}" for more in ("", "/preview", "/profile")]
    paths += [f"/jobs/job_{run_id}", f"/logs/history/{run_id}"]
    for path in paths:
        assert [client.get(path).status_code for client in (ada, again, admin)] == [200, 200, 200], path
        unknown = refused(bob.get(path), 404, "NOT_FOUND")
        assert unknown["message"] == refused(bob.get(path.replace(run_id, "none").replace(dataset_id, "ds_none")), 404, "NOT_FOUND")[
            "message"
        ].replace("ds_none", dataset_id).replace("none", run_id)
    refused(bob.get(f"/logs/stream/{run_id}"), 404, "NOT_FOUND")
    refused(bob.delete(f"/jobs/job_{run_id}"), 404, "NOT_FOUND")
    for method, path in (("POST", f"/jobs/job_{run_id}/retry"), ("DELETE", f"/jobs/job_{run_id}/artifacts")):
        refused(bob.request(method, path), 404, "NOT_FOUND")
        refused(ada.request(method, path), 409, "CONFLICT")  # which is of a job that goes on
    assert ada.get(f"/jobs/job_{run_id}").json()["status"] != "cancelled"

    def ids(client: httpx.Client, path: str, name: str) -> list[str]:
        answer = client.get(path, params={"limit": 100}).json()
        assert answer["total"] == len(answer["items"])
        return [item[name] for item in answer["items"]]

    for client, sees in ((ada, True), (bob, False), (admin, True)):
        assert (run_id in ids(client, "/jobs", "run_id")) is sees
        assert (dataset_id in ids(client, "/datasets", "dataset_id")) is sees


def test_a_model_belongs_to_whom_its_job_belongs(guarded: Api, as_: As, monkeypatch: pytest.MonkeyPatch) -> None:
    ada, bob, admin = as_("ada"), as_("bob"), as_("root", "admin")
    assert ada.post("/jobs", json=body("trained")).status_code == 200
    row = {"model_id": "model_trained", "run_id": "trained", "model_name": "m", "base_model": "b", "metrics": {}, "exports": {}}
    guarded.services.database.put_model(**row, created_at=now())
    assert [client.get("/models").json()["total"] for client in (ada, bob, admin)] == [1, 0, 1]
    in_registry = RegisteredModel.model_construct(**row, gates={}, datasets=[], training_config={}, created_at=now())
    monkeypatch.setattr(guarded.services.registry, "get", lambda model_id: in_registry.model_copy(update={"model_id": model_id}))
    for path in ("trained", "trained/card", "trained/download", "trained/files", "compare?ids=model_trained,model_other"):
        path = path if path.startswith("compare") else f"model_{path}"
        found = refused(bob.get(f"/models/{path}"), 404, "NOT_FOUND")
        assert found["message"] == "There is no model 'model_trained'", path
        assert "There is no model" not in ada.get(f"/models/{path}").text, "it is there"


def test_a_run_id_of_anothers_job_is_taken(guarded: Api, as_: As) -> None:
    assert as_("ada").post("/jobs", json=body("taken")).status_code == 200
    refused(as_("bob").post("/jobs", json=body("taken")), 409, "CONFLICT")


def test_a_job_cannot_read_what_is_anothers(guarded: Api, as_: As) -> None:
    ada, bob, admin = as_("ada"), as_("bob"), as_("root", "admin")
    dataset_id = upload(ada)
    address = ada.get(f"/datasets/{dataset_id}").json()["s3_path"]
    assert ada.post("/jobs", json=body("adas-artifacts")).status_code == 200
    made = guarded.services.storage.put_bytes(b"question,answer\n1,2\n", "s3://artifacts/adas-artifacts/out.csv").address
    shared = guarded.services.storage.put_bytes(b"question,answer\n1,2\n", "s3://artifacts/cache/tables/out.csv").address

    def submit(client: httpx.Client, **config: Any) -> httpx.Response:
        node = {"agent_name": "dataset", "agent_class": "DatasetAgent", "config": config}
        return client.post("/jobs", json={"pipeline_config": {"nodes": [node], "edges": []}})

    for config in ({"dataset_id": dataset_id}, {"file_path": address}, {"file_path": made}):
        assert [submit(client, **config).status_code for client in (ada, admin)] == [200, 200], config
        answer = submit(bob, **config)
        assert answer.status_code == 400 and "There is no" in answer.json()["message"]
    for client in (ada, bob):
        assert submit(client, file_path=shared).status_code == 400
    assert submit(bob, file_path="s3://datasets/training_data.csv").status_code == 200, "the operator put it there for all"
    refused(
        bob.post("/preflight", json={"dataset_id": dataset_id, "config": {"base_model": "llm-platform/tiny-llama"}}), 400, "CONFIG_ERROR"
    )
    node = {
        "agent_name": "n",
        "agent_class": "NotebookAgent",
        "config": {"notebook": "explore_dataset", "parameters": {"table_path": "/x"}},
    }
    found = refused(bob.post("/jobs", json={"pipeline_config": {"nodes": [node], "edges": []}}), 400, "CONFIG_ERROR")
    assert found["metadata"]["errors"][0]["field"] == "parameters.table_path"


# limits, the SDK, and without authentication


def test_each_user_has_a_limit_over_all_keys(start: Start) -> None:
    with start(authentication=True, rate_limit_default=3, rate_limit_authenticated=5) as api:

        def headers(owner: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {keys.create(KeyRequest(owner=owner), api.services.database).key}"}

        ada, other, bob = headers("ada"), headers("ada"), headers("bob")
        answers = [api.client.get("/jobs", headers=key) for key in (ada, other, ada, other, ada, other)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert answers[0].headers["x-ratelimit-limit"] == "5"
        assert api.client.get("/jobs", headers=bob).status_code == 200
        wrong = {"Authorization": "Bearer llmp_guess"}
        assert [api.client.get("/jobs", headers=wrong).status_code for _ in range(5)] == [401] * 3 + [429] * 2
        assert api.client.get("/jobs", headers=bob).status_code == 200, "a good key does not pay for what others try from its address"


def test_the_sdk_with_a_key(guarded: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys.create(KeyRequest(owner="ada", scope="read"), guarded.services.database).key
    with Client(guarded.url, api_key=key) as client:
        assert key not in repr(client) and client.jobs.list().total >= 0
        with pytest.raises(Forbidden, match="scope 'write'"):
            client.jobs.create({"nodes": [], "edges": []})
        with pytest.raises(NotFound):
            client.jobs.get("job_none")
    with Client(guarded.url) as client, pytest.raises(Unauthorized, match="Authorization: Bearer"):
        client.jobs.list()
    monkeypatch.setenv("LLM_PLATFORM_API_KEY", key)
    with Client(guarded.url) as client:
        assert client.jobs.list().total >= 0


def test_without_authentication_everything_belongs_to_all_and_stays_readable_for_admins(start: Start) -> None:
    with start() as api:
        home = api.services.settings.root
        dataset_id = api.upload().json()["dataset_id"]
        api.put()
        assert api.submit("open").status_code == 200
        wait_until(lambda: "open" in api.orchestrator.by_run_id)
        key = api.client.post("/keys", json={"owner": "root", "scope": "admin"}).json()["key"]
        ada = api.client.post("/keys", json={"owner": "ada"}).json()["key"]
    with start(home=home, authentication=True) as api:
        for path in (f"/datasets/{dataset_id}", "/jobs/job_open"):
            assert api.client.get(path, headers={"Authorization": f"Bearer {key}"}).status_code == 200
            assert api.client.get(path, headers={"Authorization": f"Bearer {ada}"}).status_code == 404


def test_without_authentication_only_this_machine_is_answered(start: Start) -> None:
    async def ask(app: FastAPI, host: str, path: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}:8000") as client:
            return await client.get(path)

    with start() as api:
        for host in ("192.0.2.1", "[2001:db8::1]", "platform.example.test"):
            found = refused(asyncio.run(ask(api.app, host, "/api/v1/jobs")), 403, "FORBIDDEN")
            assert "LLM_PLATFORM_AUTHENTICATION=true" in found["message"]
            assert asyncio.run(ask(api.app, host, "/openapi.json")).status_code == 200
        for host in ("127.0.0.1", "[::1]", "localhost"):
            assert asyncio.run(ask(api.app, host, "/api/v1/jobs")).status_code == 200
