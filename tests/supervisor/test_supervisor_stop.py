"""However the supervisor ends, no process is left, and what was asked to stop in order stops in order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.supervisor.supervisor_harness import SLEEPER, STUBBORN, WITH_GRANDCHILD, Platform, python, wait_until

Start = Callable[..., Platform]

NOTES_ITS_END = """
import signal, sys, time
def end(*_):
    with open(sys.argv[1], "a") as file:
        file.write(sys.argv[2] + "\\n")
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_requested_stop_is_a_success_and_leaves_nothing(start: Start, number: int) -> None:
    platform = start({"name": "one", "command": python(SLEEPER)}, {"name": "two", "command": python(SLEEPER)})
    platform.next("ready", "two")
    wait_until(lambda: len(platform.processes()) == 2, "both run, and are Python")
    assert platform.stop(number) == 0
    assert not platform.processes()
    assert not (platform.home / "services.json").exists()


def test_services_stop_in_the_order_of_their_ranks(start: Start, tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    ranks = {"last": 2, "first": 0, "middle": 1}
    platform = start(
        *({"name": name, "command": python(NOTES_ITS_END, str(ends), name), "stop_rank": rank} for name, rank in ranks.items())
    )
    for name in ranks:
        wait_until(lambda name=name: platform.log(name), f"{name} ready")
    assert platform.stop(signal.SIGTERM) == 0
    assert ends.read_text().split() == ["first", "middle", "last"]


def test_a_service_that_does_not_listen_is_killed_after_its_grace(start: Start) -> None:
    platform = start({"name": "stubborn", "command": python(STUBBORN), "grace": 0.3})
    wait_until(lambda: platform.log("stubborn"), "it ignores the signal")
    began = time.monotonic()
    assert platform.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began >= 0.3, "it had its time"
    assert not platform.processes()


def test_a_second_interrupt_ends_everything_at_once(start: Start) -> None:
    platform = start({"name": "stubborn", "command": python(STUBBORN), "grace": 1000})
    wait_until(lambda: platform.log("stubborn"), "it ignores the signal")
    platform.supervisor.send_signal(signal.SIGINT)
    platform.next("stopping")
    assert platform.stop(signal.SIGINT) == 0
    assert not platform.processes()


def test_a_grandchild_in_its_own_session_is_found(start: Start) -> None:
    platform = start({"name": "parent", "command": python(WITH_GRANDCHILD)})
    wait_until(lambda: platform.log("parent"), "the grandchild ignores the signal")
    platform.next("ready")
    assert len(platform.processes()) == 2
    assert platform.stop(signal.SIGTERM) == 0
    assert not platform.processes()


def test_nothing_outlives_a_killed_supervisor(start: Start) -> None:
    platform = start({"name": "parent", "command": python(WITH_GRANDCHILD)}, {"name": "stubborn", "command": python(STUBBORN)})
    wait_until(lambda: platform.log("parent") and platform.log("stubborn"), "all of them run")
    platform.next("ready")
    guardian = guardian_of(platform)
    assert platform.stop(signal.SIGKILL) == -9
    wait_until(lambda: not platform.processes(), "the guardian ended them")
    wait_until(lambda: gone(guardian), "the guardian ended")


def test_services_end_with_the_supervisor_even_without_the_guardian_and_the_next_start_ends_the_rest(start: Start) -> None:
    platform = start({"name": "parent", "command": python(WITH_GRANDCHILD)})
    wait_until(lambda: platform.log("parent"), "the grandchild runs")
    parent = platform.next("ready")["pid"]
    guardian_of(platform).kill()
    assert platform.stop(signal.SIGKILL) == -9
    wait_until(lambda: parent not in [process.pid for process in platform.processes()], "the service heard of the death")
    (grandchild,) = platform.processes()
    successor = start({"name": "worker", "command": python(SLEEPER)})
    successor.next("ready")
    assert gone(grandchild)


def test_nohup_keeps_a_hang_up_away(start: Start) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        platform = start({"name": "worker", "command": python(SLEEPER)})
    finally:
        signal.signal(signal.SIGHUP, before)
    platform.next("ready")
    os.kill(platform.supervisor.pid, signal.SIGHUP)
    os.kill(platform.services()["worker"]["pid"], signal.SIGKILL)
    assert platform.next("ready")["restarts"] == 1, "it still works"


def guardian_of(platform: Platform) -> psutil.Process:
    children = psutil.Process(platform.supervisor.pid).children()
    (guardian,) = [child for child in children if any("guardian" in part for part in child.cmdline())]
    return guardian


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
