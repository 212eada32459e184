"""Limits on one client over real sockets: how large a request's head may be, and how many uploads may go on at once."""

from __future__ import annotations

import json
import socket
from contextlib import AbstractContextManager, suppress

import pytest

from llm_platform import keys
from llm_platform.specs.keys import KeyRequest
from llm_platform.supervisor.http import HEAD_BYTES, HEADERS
from tests.api.api_harness import CSV, Api, Start, wait_until

START = b"GET /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def raw(api: Api, data: bytes) -> tuple[int, dict[str, object]]:
    """The status and body of the answer to these bytes."""
    status, _, body = answered(api, data)
    return status, body


def answered(api: Api, data: bytes) -> tuple[int, dict[str, str], dict[str, object]]:
    """The status, headers and body of the answer to these bytes, which may come before all of them are sent."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as connection:
        with suppress(OSError):  # it may answer and close its side before everything is sent; the answer is what is looked at
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while True:
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                break
            if not piece:
                break
            received += piece
            if b"content-length: " in received and b"\r\n\r\n" in received:
                head, _, rest = received.partition(b"\r\n\r\n")
                if len(rest) >= int(head.split(b"content-length: ")[1].split(b"\r\n")[0]):
                    break
    head, _, rest = received.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in headers), json.loads(rest)


@pytest.mark.parametrize(
    "data",
    [
        START + b"X-A: " + b"a" * HEAD_BYTES + b"\r\n\r\n",
        START + b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(70)) + b"\r\n",
        START + b"".join(b"X-%d: a\r\n" % number for number in range(HEADERS + 1)) + b"\r\n",
        START + b"X-A: " + b"a" * 10_000_000,  # never ends
        b"GET /api/v1/jobs?x=" + b"a" * 10_000_000,
        b"GET /api/v1/jobs?x=" + b"a" * (HEAD_BYTES + 1) + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
    ids=["one header", "all headers", "many headers", "an endless header", "an endless path", "a long path"],
)
def test_a_head_that_is_too_large(shared: Api, data: bytes) -> None:
    status, answer = raw(shared, data)
    assert (status, answer["error"]) == (431, "VALIDATION_ERROR") and set(answer) == {"error", "message", "metadata"}
    assert shared.client.get("/jobs").status_code == 200


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n", b"HELLO\r\n\r\n"])
def test_what_is_not_http(shared: Api, data: bytes) -> None:
    status, answer = raw(shared, data)
    assert (status, answer["error"]) == (400, "VALIDATION_ERROR") and set(answer) == {"error", "message", "metadata"}


HANDSHAKE = b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"GET /api/v1/ws/runs/x HTTP/1.1\r\n" + HANDSHAKE + b"\r\n",
        b"GET /api/v1/ws/runs/x HTTP/1.1\r\n" + HANDSHAKE + b"Sec-WebSocket-Version: 12\r\nSec-WebSocket-Key: abc\r\n\r\n",
        b"POST /api/v1/ws/runs/x HTTP/1.1\r\n" + HANDSHAKE + b"Sec-WebSocket-Version: 13\r\n\r\n",
        b"GET /api/v1/ws/runs/x HTTP/1.1\r\n" + HANDSHAKE + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
    ids=["no key", "version 12", "a POST", "a header that is too long"],
)
def test_what_is_no_handshake_of_a_websocket(shared: Api, data: bytes) -> None:
    status, headers, answer = answered(shared, data)
    assert (status, answer["error"]) == (400, "VALIDATION_ERROR") and set(answer) == {"error", "message", "metadata"}
    assert headers["x-ratelimit-limit"].isdigit() and len(headers["x-request-id"]) == 16


def test_what_is_no_request_is_counted_and_has_its_line(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    with start(rate_limit_default=3) as api:
        found = [answered(api, data) for data in (b"HELLO\r\n\r\n", START + b"X-A: " + b"a" * HEAD_BYTES + b"\r\n\r\n", b"HELLO\r\n\r\n")]
        assert [(status, headers["x-ratelimit-remaining"]) for status, headers, _ in found] == [(400, "2"), (431, "1"), (400, "0")]
        assert all(headers["x-ratelimit-limit"] == "3" and headers["x-ratelimit-reset"].isdigit() for _, headers, _ in found)
        assert api.client.get("/jobs").status_code == 429, "they count as requests of their address"
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    for status, headers, body in found:
        (line,) = (line for line in lines if line["request_id"] == headers["x-request-id"])
        assert (line["logger"], line["status"], line["route"], line["client"]) == ("api.access", status, None, "127.0.0.1")
        assert line["bytes"] == int(headers["content-length"]) == len(json.dumps(body))


def test_a_large_head_within_the_limit(shared: Api) -> None:
    """Several on one connection: each has its own limit."""
    for _ in range(3):
        headers = {f"X-{number}": "a" * 500 for number in range(HEADERS // 2)}
        assert shared.client.get("/jobs", headers=headers).status_code == 200
    assert shared.client.get("/jobs", params={"x": "a" * 50_000}).status_code == 200
    assert shared.upload(b"text\n" + b"a\n" * 500_000).status_code == 200, "a body has a limit of its own"


def test_a_head_whose_end_comes_with_much_of_the_body(shared: Api) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + b"row\n" * 100_000 + b"\r\n--b--\r\n"
    head = f"POST /api/v1/datasets/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(3):
            connection.sendall(head.encode())
            shared.client.get("/jobs")  # the server has read that much by now
            connection.sendall(b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + body)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def slow_upload(api: Api, key: str | None = None) -> socket.socket:
    """An upload whose file never ends."""
    connection = socket.create_connection(("127.0.0.1", api.port), timeout=20)
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"POST /api/v1/datasets/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n{authorization}"
    part = '--b\r\nContent-Disposition: form-data; name="file"; filename="rows.csv"\r\n\r\nquestion,answer\r\n'
    connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n{part}".encode())
    return connection


def test_uploads_of_one_client(start: Start) -> None:
    with start(max_uploads_per_client=2) as api:
        slow: list[AbstractContextManager[socket.socket]] = [slow_upload(api) for _ in range(2)]
        wait_until(lambda: sum(api.services.uploads_of.values()) == 2)
        refused = api.upload()
        assert (refused.status_code, refused.json()["error"]) == (429, "RATE_LIMITED") and "retry-after" in refused.headers
        assert refused.json()["metadata"] == {"limit": 2}
        assert api.client.get("/datasets").status_code == 200, "all else goes on"
        for connection in slow:
            connection.__exit__(None, None, None)
        wait_until(lambda: not api.services.uploads_of)
        assert api.upload().status_code == 200 and api.nothing_left()


def test_each_user_has_a_share(start: Start) -> None:
    with start(authentication=True, max_uploads_per_client=1) as api:
        ada, again, bob = (keys.create(KeyRequest(owner=owner), api.services.database).key for owner in ("ada", "ada", "bob"))

        def upload(key: str) -> int:
            files = {"file": ("rows.csv", CSV)}
            return api.client.post("/datasets/upload", files=files, headers={"Authorization": f"Bearer {key}"}).status_code

        with slow_upload(api, ada):
            wait_until(lambda: api.services.uploads_of["ada"])
            assert [upload(key) for key in (again, bob)] == [429, 200]
        wait_until(lambda: not api.services.uploads_of)
        assert upload(again) == 200
