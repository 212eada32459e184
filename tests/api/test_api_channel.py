"""A run's channel over real WebSockets: the log, who watches, commands, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from websockets import Origin
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from api import streams
from llm_platform import audit, jobs, keys, runlog, signals
from llm_platform.specs.channel import MAX_COMMENT, MAX_MESSAGE, MESSAGES
from llm_platform.specs.keys import KeyRequest, Scope
from tests.api.api_harness import Api, Start, body, wait_until

RUN = "abc123"


@pytest.fixture(scope="module")
def module_api(start: Start) -> Iterator[Api]:
    with start(rate_limit_default=100_000) as found:
        found.put()
        yield found


@pytest.fixture(scope="module")
def guarded(start: Start) -> Iterator[Api]:
    """With authentication, and a job of Ada's that runs."""
    with start(authentication=True, cors_origins=["https://app.example.test"]) as found:
        found.put()
        running(found, RUN, owner="ada")
        yield found


@pytest.fixture
def run_id(module_api: Api, request: pytest.FixtureRequest) -> str:
    """A job that runs."""
    return running(module_api, f"r{abs(hash(request.node.name)) % 10**9}")


def running(api: Api, run_id: str, owner: str | None = None) -> str:
    services = api.services
    jobs.accept(body(run_id), services.settings, services.database, services.storage, keys.Caller(owner))
    services.kick()
    api.orchestrator.move(run_id, "running")
    return run_id


def train(api: Api, run_id: str) -> None:
    """A training node that runs, as the table has it."""
    api.services.database.start_node(run_id, "training", "TrainingAgent", "digest")


def url(api: Api, run_id: str, **query: str) -> str:
    return str(httpx.URL(f"ws://127.0.0.1:{api.port}/api/v1/ws/runs/{run_id}", params=query))


def key(api: Api, owner: str, scope: Scope = "write") -> str:
    return keys.create(KeyRequest(owner=owner, scope=scope), api.services.database).key


@contextmanager
def channel(api: Api, run_id: str, after: str | None = None, **options: Any) -> Iterator[ClientConnection]:
    address = url(api, run_id, **({"after": after} if after else {}))
    with connect(address, max_size=2**24, max_queue=None, proxy=None, **options) as found:
        yield found


def receive(socket: ClientConnection, kind: str, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
    """The next message of that type that is wanted; every message is one that the models know."""
    while True:
        text = socket.recv(timeout=10)
        MESSAGES.validate_json(text)
        message = json.loads(text)
        if message["type"] == kind and wanted(message):
            return message


def ask(socket: ClientConnection, command: str, **fields: Any) -> dict[str, Any]:
    """The answer to a command."""
    socket.send(json.dumps({"command": command, "id": f"my {command}", **fields}))
    return receive_answer(socket, f"my {command}")


def receive_answer(socket: ClientConnection, re: str | None) -> dict[str, Any]:
    while True:
        message = json.loads(socket.recv(timeout=10))
        MESSAGES.validate_python(message)
        if message["type"] in ("ack", "error"):
            assert message["re"] == re
            return message


def log(api: Api, run_id: str, *messages: str) -> None:
    runlog.append(api.services.database, run_id, [runlog.line("INFO", message, agent="DatasetAgent") for message in messages])


# the log


def test_the_lines_are_those_of_the_stream(module_api: Api, run_id: str) -> None:
    log(module_api, run_id, "one", "two \N{SNOWMAN}", "three")
    with channel(module_api, run_id) as socket:
        found = [receive(socket, "log") for _ in range(3)]
        log(module_api, run_id, "live")
        found.append(receive(socket, "log"))
        module_api.orchestrator.move(run_id, "completed")
        assert receive(socket, "end") == {"type": "end", "status": "completed"}
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
        assert socket.close_code == 1000
    assert [message["id"] for message in found] == [f"{run_id}:{number}" for number in range(1, 5)]
    assert [message["data"] for message in found] == module_api.client.get(f"/logs/history/{run_id}").json()["logs"]
    with channel(module_api, run_id, after=f"{run_id}:3") as socket:
        assert receive(socket, "log") == found[3]
        assert receive(socket, "end")["status"] == "completed"
    wait_until(lambda: not module_api.services.streams.open_streams())


def test_reconnecting_neither_loses_nor_repeats(module_api: Api, run_id: str) -> None:
    log(module_api, run_id, *[str(number) for number in range(2_500)])
    found: list[str] = []
    while len(found) < 2_500:
        with channel(module_api, run_id, after=f"{run_id}:{len(found)}" if found else None) as socket:
            found += [receive(socket, "log")["data"]["message"] for _ in range(min(700, 2_500 - len(found)))]
    assert found == [str(number) for number in range(2_500)]


# commands


def test_cancel(module_api: Api, run_id: str) -> None:
    with channel(module_api, run_id) as socket:
        answer = ask(socket, "cancel")
        assert (answer["type"], answer["command"]) == ("ack", "cancel")
        assert answer["result"] == {"job_id": f"job_{run_id}", "status": "cancelled"}
        assert receive(socket, "end")["status"] == "cancelled"
    assert module_api.client.get(f"/jobs/job_{run_id}").json()["status"] == "cancelled"


def test_what_a_training_is_asked_for(module_api: Api, run_id: str) -> None:
    database = module_api.services.database
    with channel(module_api, run_id) as socket:
        refused = ask(socket, "checkpoint_now")
        assert (refused["type"], refused["error"]) == ("error", "CONFLICT")
        train(module_api, run_id)
        assert ask(socket, "checkpoint_now")["result"] == {}
        row = database.submission(run_id)
        assert row is not None and row["checkpoint_requested_at"] is not None and not row["keep_requested"]
        (entry,), _ = audit.listed(database, 1)
        assert (entry.action, entry.target, entry.client) == ("job.checkpoint", f"job_{run_id}", "127.0.0.1")
        assert ask(socket, "stop_and_keep")["result"] == {"job_id": f"job_{run_id}", "status": "cancelled", "keeps": ["training"]}
        assert signals.keep_asked(database, run_id)
        assert "Asked to stop and keep: training" in receive(socket, "log", lambda m: "Asked" in m["data"]["message"])["data"]["message"]
        assert module_api.client.get(f"/jobs/job_{run_id}").json()["status"] == "running", "the training ends it"
        assert ask(socket, "stop_and_keep")["result"]["keeps"] == ["training"]
        assert ask(socket, "cancel")["result"] == {"job_id": f"job_{run_id}", "status": "cancelled"}, "who cannot wait cancels again"
        assert receive(socket, "end")["status"] == "cancelled"
    messages = [line["message"] for line in module_api.client.get(f"/logs/history/{run_id}").json()["logs"]]
    assert [message.partition(":")[0] for message in messages] == ["Asked to stop and keep"], "once"


def test_without_a_training_there_is_nothing_to_keep(module_api: Api, run_id: str) -> None:
    answer = module_api.client.delete(f"/jobs/job_{run_id}", params={"keep": True}).json()
    assert answer == {"job_id": f"job_{run_id}", "status": "cancelled", "keeps": []}
    assert module_api.client.get(f"/jobs/job_{run_id}").json()["status"] == "cancelled"
    (line,) = module_api.client.get(f"/logs/history/{run_id}").json()["logs"]
    assert line["level"] == "WARN" and "nothing to keep" in line["message"]


def test_a_comment_is_a_line_for_everybody_and_for_later(module_api: Api, run_id: str) -> None:
    with channel(module_api, run_id) as one, channel(module_api, run_id) as other:
        answer = ask(one, "comment", text="the loss looks odd \N{THINKING FACE}")
        messages = [receive(socket, "log") for socket in (one, other)]
        assert messages[0] == messages[1] and messages[0]["id"] == answer["result"]["log_id"] == f"{run_id}:1"
    (line,) = module_api.client.get(f"/logs/history/{run_id}").json()["logs"]
    assert line == messages[0]["data"]
    assert (line["level"], line["type"], line["author"], line["agent"]) == ("INFO", "comment", None, None)
    assert line["message"] == "the loss looks odd \N{THINKING FACE}"


def test_a_wrong_command_is_answered_and_the_connection_stays(module_api: Api, run_id: str) -> None:
    wrong: list[tuple[str | bytes, str, str | None]] = [
        ('{"command": "explode", "id": "x"}', "Unknown command 'explode'; the commands are cancel, stop_and_keep", "x"),
        ("{}", "An object with a 'command' is expected", None),
        ("[1]", "An object with a 'command' is expected", None),
        ('{"command": ["cancel"]}', "An object with a 'command' is expected", None),
        ("nonsense", "not valid JSON", None),
        ('{"command": "cancel", "command": "ping"}', "given more than once", None),
        ('{"command": "ping", "more": 1, "id": "y"}', "Input validation failed for 'ping'", "y"),
        ('{"command": "comment"}', "Input validation failed for 'comment'", None),
        ('{"command": "comment", "text": " \\n"}', "Input validation failed for 'comment'", None),
        (json.dumps({"command": "comment", "text": "x" * (MAX_COMMENT + 1)}), "Input validation failed for 'comment'", None),
        (b"\x00\x01", "not binary", None),
        ("[" * 10_000, "", None),
    ]
    with channel(module_api, run_id) as socket:
        for text, message, re in wrong:
            socket.send(text)
            answer = receive_answer(socket, re)
            assert (answer["type"], answer["error"]) == ("error", "VALIDATION_ERROR") and message in answer["message"], answer
            assert "errors" in answer["metadata"]
        assert ask(socket, "ping") == {"type": "ack", "command": "ping", "re": "my ping", "result": {}}


def test_what_has_ended_is_told_and_takes_no_command(module_api: Api, run_id: str) -> None:
    with channel(module_api, run_id) as socket:
        receive(socket, "presence")
        module_api.orchestrator.move(run_id, "completed")
        for command, fields in (("cancel", {}), ("stop_and_keep", {}), ("comment", {"text": "late"})):
            socket.send(json.dumps({"command": command, **fields}))
        answers = [message for message in rest(socket) if message["type"] in ("error", "ack")]
    assert all(answer["error"] == "CONFLICT" for answer in answers)
    assert module_api.client.get(f"/logs/history/{run_id}").json()["total"] == 0


def rest(socket: ClientConnection) -> list[dict[str, Any]]:
    """All messages until the connection is closed."""
    found = []
    while True:
        try:
            found.append(json.loads(socket.recv(timeout=10)))
        except ConnectionClosed:
            return found


def test_a_silent_run_has_a_heartbeat(module_api: Api, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.2)
    with channel(module_api, run_id) as socket:
        assert receive(socket, "heartbeat") == receive(socket, "heartbeat") == {"type": "heartbeat"}
        log(module_api, run_id, "after a silence")
        assert receive(socket, "log")["data"]["message"] == "after a silence"


# who watches


def test_who_comes_and_goes_is_told(guarded: Api) -> None:
    def as_(owner: str, scope: Scope = "write") -> dict[str, Any]:
        return {"additional_headers": {"Authorization": f"Bearer {key(guarded, owner, scope)}"}}

    def users(message: dict[str, Any]) -> list[str]:
        return [item["user"] for item in message["users"]]

    with channel(guarded, RUN, **as_("ada")) as ada:
        alone = receive(ada, "presence")
        assert (alone["event"], alone["user"], users(alone)) == ("list", "ada", ["ada"])
        with channel(guarded, RUN, **as_("root", "admin")) as root:
            assert users(receive(root, "presence")) == ["ada", "root"]
            joined = receive(ada, "presence")
            assert (joined["event"], joined["user"], users(joined)) == ("join", "root", ["ada", "root"])
            with channel(guarded, RUN, **as_("ada")) as again:
                assert users(receive(again, "presence")) == ["ada", "root"], "each user once"
            ask(root, "comment", text="hello")
            line = receive(ada, "log", lambda message: message["data"].get("type") == "comment")["data"]
            assert (line["author"], line["message"]) == ("root", "hello")
        left = receive(ada, "presence")
        assert (left["event"], left["user"], users(left)) == ("leave", "root", ["ada"])


def test_several_api_processes_are_one_room(start: Start) -> None:
    """Two APIs over one database: lines, comments and watchers of one are seen in the other, and commands work on both."""
    with start() as api, start(api.services.settings.home) as other:
        other.orchestrator.runs, other.orchestrator.by_run_id = api.orchestrator.runs, api.orchestrator.by_run_id
        api.put()
        running(api, RUN)
        train(other, RUN)
        with channel(api, RUN) as here, channel(other, RUN) as there:
            assert len(receive(there, "presence")["users"]) == 1, "one user, without authentication"
            ask(there, "comment", text="from there")
            assert receive(here, "log")["data"]["message"] == "from there"
            ask(there, "checkpoint_now")
            row = api.services.database.submission(RUN)
            assert row is not None and row["checkpoint_requested_at"] is not None


# what is refused


def refused(api: Api, run_id: str, **options: Any) -> tuple[int, str]:
    query = options.pop("query", {})
    with pytest.raises(InvalidStatus) as caught, connect(url(api, run_id, **query), proxy=None, **options):
        pass
    response = caught.value.response
    found = json.loads(response.body or b"{}")
    assert set(found) == {"error", "message", "metadata"}
    assert "x-ratelimit-limit" in response.headers
    return response.status_code, found["error"]


def test_who_is_let_in(guarded: Api) -> None:
    ada, bob, admin = key(guarded, "ada"), key(guarded, "bob"), key(guarded, "root", "admin")

    def header(value: str) -> dict[str, Any]:
        return {"additional_headers": {"Authorization": value}}

    assert refused(guarded, RUN) == (401, "UNAUTHORIZED")
    assert refused(guarded, RUN, **header("Bearer llmp_unknown")) == (401, "UNAUTHORIZED")
    assert refused(guarded, RUN, **header(f"Bearer {bob}")) == (404, "NOT_FOUND"), "another's run"
    assert refused(guarded, "nothing", **header(f"Bearer {ada}")) == (404, "NOT_FOUND")
    assert refused(guarded, RUN, query={"after": "x:1"}, **header(f"Bearer {ada}")) == (400, "VALIDATION_ERROR")
    assert refused(guarded, RUN, query={"key": ada, "token": ada}) == (401, "UNAUTHORIZED"), "a key has no business in an address"
    assert refused(guarded, RUN, subprotocols=["llm-platform", "bearer.llmp_unknown"]) == (401, "UNAUTHORIZED")
    for let_in in (ada, admin):
        with channel(guarded, RUN, additional_headers={"Authorization": f"Bearer {let_in}"}) as socket:
            assert ask(socket, "ping")["type"] == "ack"
    with channel(guarded, RUN, subprotocols=["llm-platform", f"bearer.{ada}"]) as socket:
        assert socket.subprotocol == "llm-platform", "the key does not come back"
        assert ask(socket, "ping")["type"] == "ack"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_foreign_origin_is_refused(guarded: Api, module_api: Api, run_id: str, origin: str) -> None:
    assert refused(module_api, run_id, origin=origin) == (403, "FORBIDDEN")
    authorized = {"additional_headers": {"Authorization": f"Bearer {key(guarded, 'ada')}"}}
    assert refused(guarded, RUN, origin=origin, **authorized) == (403, "FORBIDDEN")


def test_the_own_and_allowed_origins(guarded: Api) -> None:
    authorized = {"Authorization": f"Bearer {key(guarded, 'ada')}"}
    for origin in (f"http://127.0.0.1:{guarded.port}", "https://app.example.test"):
        with channel(guarded, RUN, origin=Origin(origin), additional_headers=authorized) as socket:
            assert ask(socket, "ping")["type"] == "ack"


def test_scopes_and_a_key_that_is_revoked(guarded: Api) -> None:
    reader = keys.create(KeyRequest(owner="ada", scope="read"), guarded.services.database)
    with channel(guarded, RUN, additional_headers={"Authorization": f"Bearer {reader.key}"}) as socket:
        for command, fields in (("cancel", {}), ("stop_and_keep", {}), ("checkpoint_now", {}), ("comment", {"text": "x"})):
            assert ask(socket, command, **fields)["error"] == "FORBIDDEN"
        assert ask(socket, "ping")["type"] == "ack"
        keys.revoke(reader.key_id, guarded.services.database)
        assert ask(socket, "ping")["error"] == "UNAUTHORIZED"
    assert guarded.services.database.submission(RUN)["status"] == "running"  # type: ignore[index]


@pytest.mark.parametrize("size", [MAX_MESSAGE + 1, 50_000_000])
@pytest.mark.parametrize("binary", [False, True])
def test_a_message_that_is_too_long_ends_the_connection(module_api: Api, run_id: str, size: int, binary: bool) -> None:
    message = json.dumps({"command": "ping", "id": "x" * size})
    with channel(module_api, run_id, compression=None) as socket, pytest.raises(ConnectionClosed):
        socket.send(message.encode() if binary else message)
        while True:
            socket.recv(timeout=10)
    assert socket.close_code == 1009
    wait_until(lambda: not module_api.services.streams.open_streams())


def test_channels_count_as_streams(start: Start) -> None:
    with start(max_streams_per_client=2) as api:
        api.put()
        running(api, RUN)
        with channel(api, RUN), api.client.stream("GET", f"/logs/stream/{RUN}"):
            wait_until(lambda: api.services.streams.open_streams() == 2)
            assert refused(api, RUN) == (429, "RATE_LIMITED")
        wait_until(lambda: not api.services.streams.open_streams())
        with channel(api, RUN) as socket:
            receive(socket, "presence")


def test_the_server_stops_although_a_channel_is_open(start: Start) -> None:
    with ExitStack() as left:
        with start() as api:
            api.put()
            running(api, RUN)
            socket = left.enter_context(channel(api, RUN))
            receive(socket, "presence")
        rest(socket)
        assert socket.close_code == 1012, "come again"


def test_commands_count_as_requests(start: Start) -> None:
    with start(rate_limit_default=5) as api:
        api.put()
        running(api, RUN)
        with channel(api, RUN) as socket:
            answers = [ask(socket, "ping") for _ in range(8)]
            assert [answer["type"] for answer in answers][:4] == ["ack"] * 4
            assert {answer["error"] for answer in answers[4:]} == {"RATE_LIMITED"}


def test_a_key_is_in_no_log(guarded: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secret = key(guarded, "ada")
    with channel(guarded, RUN, subprotocols=["llm-platform", f"bearer.{secret}"]) as socket:
        ask(socket, "ping")
    assert secret not in "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(("api", "llm_platform")))
