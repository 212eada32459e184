"""What the supervisor starts, in which order, and what it does when a service dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import psutil

from llm_platform.supervisor.platform import free_port, listen
from tests.supervisor.supervisor_harness import SLEEPER, Platform, python, wait_until

Start = Callable[..., Platform]

OPENS_WHEN_TOLD = """
import pathlib, socket, sys, time
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.02)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(1000)
"""

APP = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(__import__("os").getpid()).encode()})

def create_app():
    return app
"""


def test_a_killed_service_is_started_again_at_once(start: Start) -> None:
    platform = start({"name": "worker", "command": python(SLEEPER), "url": "http://example.test"})
    first = platform.next("ready")
    state = platform.services()["worker"]
    assert state["pid"] == first["pid"] and state["url"] == "http://example.test" and state["restarts"] == 0
    assert abs(psutil.Process(first["pid"]).create_time() - state["started_at"]) < 1
    os.kill(first["pid"], signal.SIGKILL)
    assert platform.next("ended") == {"event": "ended", "name": "worker", "code": -9, "restart_in": 0.0}
    second = platform.next("ready")
    assert second["pid"] != first["pid"] and second["restarts"] == 1
    state = wait_until(
        lambda: (now := platform.services()["worker"]) and now["pid"] == second["pid"] and now, "the new process written down"
    )
    assert state["restarts"] == 1


def test_a_service_that_keeps_dying_waits_longer_each_time(start: Start) -> None:
    platform = start({"name": "broken", "command": python("raise SystemExit(3)")}, {"name": "worker", "command": python(SLEEPER)})
    ends = [platform.next("ended", "broken") for _ in range(3)]
    assert [(end["code"], end["restart_in"]) for end in ends] == [(3, 0.0), (3, 1.0), (3, 2.0)]
    assert platform.services()["worker"]["restarts"] == 0
    assert platform.stop(signal.SIGTERM) == 0, "a service that waits for its restart does not keep the rest from stopping"


def test_a_command_that_is_not_there_is_told_in_its_log(start: Start) -> None:
    platform = start({"name": "missing", "command": ["/no/such/program"]})
    assert platform.next("ended")["code"] == 1
    assert "/no/such/program" in platform.log("missing") or "No such file" in platform.log("missing")


def test_a_service_waits_until_those_it_needs_are_ready(start: Start, tmp_path: Path) -> None:
    port, gate = free_port(), tmp_path / "open"
    needed = {"name": "needed", "command": python(OPENS_WHEN_TOLD, str(port), str(gate)), "probe": f"tcp://127.0.0.1:{port}"}
    platform = start({"name": "later", "command": python(SLEEPER), "after": ["needed"]}, needed)
    wait_until(lambda: (tmp_path / "home" / "services.json").exists() and platform.services()["needed"]["pid"], "the first service started")
    assert platform.services()["later"]["pid"] is None
    gate.touch()
    assert platform.next("ready")["name"] == "needed"
    assert platform.next("ready")["name"] == "later"


def test_connections_wait_while_a_service_on_a_held_socket_restarts(start: Start, tmp_path: Path) -> None:
    (tmp_path / "held_app.py").write_text(APP)
    get = build_opener(ProxyHandler({}))
    with listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        descriptor = listener.fileno()
        service = {
            "name": "api",
            "command": [sys.executable, "-m", "llm_platform.supervisor.serve", str(descriptor), "held_app:create_app"],
            "environment": {"PYTHONPATH": str(tmp_path)},
            "probe": url,
            "pass_fds": [descriptor],
        }
        platform = start(service, pass_fds=[descriptor])
        first = platform.next("ready")["pid"]
        os.kill(first, signal.SIGKILL)
        with get.open(url, timeout=15) as response:
            assert int(response.read()) not in (0, first)


def test_output_goes_to_a_log_file_that_is_rotated_at_start(start: Start, tmp_path: Path) -> None:
    logs = tmp_path / "home" / "logs"
    logs.mkdir(parents=True)
    with (logs / "worker.log").open("wb") as file:
        file.truncate(11 * 2**20)
    platform = start({"name": "worker", "command": python("print('hello from the worker', flush=True); " + SLEEPER)})
    wait_until(lambda: platform.log("worker") == "hello from the worker\n", "the line in a new log")
    assert (logs / "worker.log.1").stat().st_size == 11 * 2**20


def test_services_get_the_marker_and_their_own_variables(start: Start) -> None:
    source = "import os; print(os.environ['LLM_PLATFORM_INSTANCE'], os.environ['EXTRA'], flush=True); " + SLEEPER
    platform = start({"name": "worker", "command": python(source), "environment": {"EXTRA": "of its own"}})
    platform.next("ready")
    assert wait_until(lambda: platform.log("worker"), "the line") == f"{platform.instance} of its own\n"


def test_only_one_supervisor_per_home(start: Start) -> None:
    first = start({"name": "worker", "command": python(SLEEPER)})
    first.next("ready")
    second = start({"name": "worker", "command": python(SLEEPER)})
    assert second.supervisor.wait(15) == 1
    assert second.supervisor.stderr is not None
    message = second.supervisor.stderr.read().decode()
    assert f"process {first.supervisor.pid}" in message and "--home" in message
    assert first.services()["worker"]["restarts"] == 0


def test_a_taken_port_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "llm_platform", "up", "--home", str(tmp_path / "home"), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and f"Port {port}" in done.stderr and "--port 0" in done.stderr
    assert not (tmp_path / "home" / "services.json").exists()


def test_the_services_file_is_json_with_the_supervisor(start: Start) -> None:
    platform = start({"name": "worker", "command": python(SLEEPER)})
    platform.next("ready")
    supervisor = json.loads((platform.home / "services.json").read_text())["supervisor"]
    assert supervisor["pid"] == platform.supervisor.pid
    assert abs(psutil.Process(platform.supervisor.pid).create_time() - supervisor["started_at"]) < 1
