"""Replacing the API's process under load, and its end: nobody is refused, nothing is cut off, no line of a log is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from llm_platform import Client, runlog
from llm_platform.database import Database
from llm_platform.errors import Conflict, ServiceUnavailable
from llm_platform.settings import Settings
from llm_platform.supervisor.platform import listen
from llm_platform.supervisor.restart import restart_api
from tests.supervisor.supervisor_harness import SLEEPER, Platform, python, wait_until

CSV = b"question,answer\n" + b"".join(b"What is %d plus 1?,%d\n" % (number, number + 1) for number in range(50))
PATIENCE = 90.0
BOUNDARY = "a-boundary"


def form(data: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="rows.csv"\r\n\r\n'
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


class Asking(threading.Thread):
    """Sends requests until it is told to stop; `wrong` has what it did not like. Each over a connection of its own, unless it keeps one."""

    def __init__(self, url: str, *, keep: bool) -> None:
        super().__init__(daemon=True)
        self.url, self.keep = url, keep
        self.wrong: list[str] = []
        self.asked = 0
        self.stopping = threading.Event()

    def run(self) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self.stopping.is_set():
                try:
                    ask = client.get if self.keep else lambda url: httpx.get(url, trust_env=False, timeout=30)
                    answer = ask(f"{self.url}/api/v1/jobs")
                    self.wrong += [] if answer.status_code == 200 else [answer.text]
                except httpx.HTTPError as error:
                    self.wrong.append(repr(error))
                self.asked += 1

    def stop(self) -> None:
        self.stopping.set()
        self.join(PATIENCE)


class Upload(threading.Thread):
    """An upload of which the second half comes when `go` is set."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.begun, self.go = threading.Event(), threading.Event()
        self.answer: httpx.Response | Exception | None = None

    def run(self) -> None:
        body = form(CSV)

        def pieces() -> Iterator[bytes]:
            yield body[: len(body) // 2]
            self.begun.set()
            self.go.wait(PATIENCE)
            yield body[len(body) // 2 :]

        headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
        try:
            self.answer = httpx.post(
                f"{self.url}/api/v1/datasets/upload", content=pieces(), headers=headers, trust_env=False, timeout=PATIENCE
            )
        except httpx.HTTPError as error:
            self.answer = error

    def status(self) -> int | str:
        self.go.set()
        self.join(PATIENCE)
        return self.answer.status_code if isinstance(self.answer, httpx.Response) else repr(self.answer)


def test_a_restart_under_load_loses_nothing(start: Callable[..., Platform], tmp_path: Path) -> None:
    home = tmp_path / "home"
    with listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        platform = start(api_service(home, listener, url), pass_fds=[listener.fileno()])
        first = platform.next("ready")["pid"]
        settings, database = Settings(home=home), job_in(home)
        seen: list[str] = []

        def follow() -> None:
            with Client(f"{url}/api/v1") as client:
                seen.extend(line.message for line in client.logs.stream("watched"))

        watching = threading.Thread(target=follow, daemon=True)
        watching.start()
        asking = [Asking(url, keep=True), Asking(url, keep=False)]
        for thread in asking:
            thread.start()
        upload, writer = Upload(url), Writer(database)
        upload.start()
        assert upload.begun.wait(PATIENCE)
        writer.start()
        before, after = restart_api(settings)
        assert before == first != after
        asked = [thread.asked for thread in asking]
        for thread, then in zip(asking, asked, strict=True):
            wait_until(lambda thread=thread, then=then: thread.asked > then + 5, "the new one answers", PATIENCE)
        assert upload.status() == 200, "the old process finishes what it began"
        wait_until(lambda: not psutil.pid_exists(first), "the old process has ended", PATIENCE)
        written = writer.stop()
        for thread in asking:
            thread.stop()
            assert not thread.wrong and thread.asked > 20
        (home / "ended").touch()
        watching.join(PATIENCE)
        assert seen == [f"line {number}" for number in range(written)]
        assert platform.services()["api"]["pid"] == after and platform.services()["api"]["restarts"] == 0
        database.close()
        assert platform.stop(signal.SIGTERM) == 0
        assert not platform.processes()


class Writer(threading.Thread):
    """Writes numbered lines into the log of the run until it is told to stop."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self.database, self.number = database, 0
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.02):
            runlog.append(self.database, "watched", [runlog.line("INFO", f"line {self.number}")])
            self.number += 1

    def stop(self) -> int:
        self.stopping.set()
        self.join(PATIENCE)
        return self.number


def api_service(home: Path, listener: socket.socket, url: str, **environment: str) -> dict[str, Any]:
    return {
        "name": "api",
        "command": [
            sys.executable,
            "-m",
            "llm_platform.supervisor.serve",
            str(listener.fileno()),
            "tests.supervisor.hand_over_app:create_app",
        ],
        "environment": {"LLM_PLATFORM_HOME": str(home), "LLM_PLATFORM_DRAIN_SECONDS": "60", **environment},
        "probe": f"{url}/health",
        "pass_fds": [listener.fileno()],
        "hands_over": True,
        "grace": 30.0,
    }


def test_a_new_process_that_fails_leaves_the_old_one_at_work(start: Callable[..., Platform], tmp_path: Path) -> None:
    """The second start finds the gate gone: as a broken upgrade would."""
    gate = tmp_path / "gate"
    gate.touch()
    source = f"import os, sys; os.path.exists({str(gate)!r}) or sys.exit(3); print('ready', flush=True); {SLEEPER}"
    platform = start({"name": "api", "command": python(source), "hands_over": True})
    first = platform.next("ready")["pid"]
    wait_until(lambda: platform.log("api"), "it has seen the gate")
    gate.unlink()
    with pytest.raises(ServiceUnavailable, match="old one serves on"):
        restart_api(Settings(home=platform.home))
    assert platform.services()["api"] | {"started_at": None} == {
        "pid": first, "started_at": None, "url": None, "restarts": 0, "failed_successors": 1,
    }  # fmt: skip
    assert psutil.pid_exists(first)
    assert platform.stop(signal.SIGTERM) == 0
    with pytest.raises(Conflict, match="No platform runs"):
        restart_api(Settings(home=platform.home))


@contextmanager
def serving(home: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """An API process that no supervisor started, and its address."""
    with listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        service = api_service(home, listener, url, **environment)
        process = subprocess.Popen(service["command"], env={**os.environ, **service["environment"]}, pass_fds=service["pass_fds"])
    try:
        wait_until(lambda: answered(url), "it answers", PATIENCE)
        yield process, url
    finally:
        process.kill()
        process.wait()


def answered(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False, timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_process_that_is_told_to_end_says_so_and_finishes_what_it_began(tmp_path: Path) -> None:
    with serving(tmp_path / "home", LLM_PLATFORM_DRAIN_DELAY="3") as (process, url):
        job_in(tmp_path / "home").close()
        upload = Upload(url)
        upload.start()
        assert upload.begun.wait(PATIENCE)
        with (
            httpx.Client(trust_env=False, timeout=30) as client,
            client.stream("GET", f"{url}/api/v1/logs/stream/watched") as stream,
            connect(f"ws{url.removeprefix('http')}/api/v1/ws/runs/watched", proxy=None) as channel,
        ):
            events = stream.iter_lines()
            assert next(events).startswith(":") and json.loads(channel.recv(PATIENCE))["type"] == "presence"
            assert client.get(f"{url}/health").json()["services"]["api"] == "healthy"
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: client.get(f"{url}/health").status_code == 503, "a proxy sees it", PATIENCE)
            answer = client.get(f"{url}/health")
            assert answer.json()["services"]["api"] == answer.json()["status"] == "unhealthy"
            assert answer.headers["connection"] == "close"
            assert "retry: 200" in list(events), "the stream ends, and says when to come again"
            with pytest.raises(ConnectionClosedError) as closed:
                channel.recv(PATIENCE)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
        wait_until(lambda: refused(url), "nothing is accepted any more", PATIENCE)
        assert process.poll() is None, "it waits for the upload"
        assert upload.status() == 200
        assert process.wait(PATIENCE) == -signal.SIGTERM


def job_in(home: Path) -> Database:
    """The platform's database, with the job `watched`, which runs."""
    database = Database(f"sqlite:///{home / 'platform.db'}")
    database.accept("watched", dagster_run_id="one", digest="", pipeline={"nodes": [], "edges": []})
    database.update_submission("watched", submitted=True, status="running")
    return database


def refused(url: str) -> bool:
    try:
        httpx.get(f"{url}/health", trust_env=False, timeout=30)
    except httpx.ConnectError:
        return True
    except httpx.HTTPError:
        return False
    return False


def test_who_never_finishes_is_not_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path / "home", LLM_PLATFORM_DRAIN_SECONDS="1") as (process, url):
        upload = Upload(url)
        upload.start()
        assert upload.begun.wait(PATIENCE)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM
        assert time.monotonic() - began >= 1, "it had its time"
        assert upload.status() == 503, "so that the client sends it again"
        assert not list((tmp_path / "home" / "work" / "uploads").glob("*")), "nothing of it is left"
