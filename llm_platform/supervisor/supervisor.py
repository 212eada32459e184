"""The loop that keeps a list of services running, whatever they are.

It sleeps until something happens: a signal (also SIGCHLD, the death of a child), a service that became ready, the time of a restart.
Idle it costs nothing. SIGUSR1 replaces the services that can hand over, each by a new process that first becomes ready.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import psutil

from llm_platform.services import start_time
from llm_platform.supervisor.home import Home
from llm_platform.supervisor.service import BOOT_TIME, Child, Service, answers
from llm_platform.supervisor.sweep import MARKER, sweep

RUN_GRACE = 4.0
"""Seconds in which a run worker stops its trainer and writes down that its run was interrupted."""

_PROBE_INTERVAL = 0.1
_PROBE_TIMEOUT = 60.0
_SUCCESSOR_PATIENCE = 120.0
"""Seconds after which a new process that has not said that it can take over is given up."""
_RUN_GRACE = 6.0
"""Seconds that runs in progress are given to end their trainers and to write down that they were interrupted."""


class Watcher(Protocol):
    """What wants to know how the services are. All calls come from the supervisor's thread."""

    def ready(self, child: Child) -> None: ...

    def ended(self, child: Child, code: int, restart_in: float) -> None: ...

    def stopping(self) -> None: ...

    def tick(self) -> None:
        """Called whenever the loop comes by, at least every `interval` seconds."""
        ...

    @property
    def interval(self) -> float | None: ...


class Supervisor:
    """Runs services in one home folder until a signal asks it to stop; `run` returns the exit code."""

    def __init__(self, home: Home, services: Sequence[Service], *, environment: Mapping[str, str], watcher: Watcher) -> None:
        self._home = home
        self._watcher = watcher
        self._environment = {**environment, MARKER: home.instance}
        self._children = {service.name: Child(service, home.logs / f"{service.name}.log") for service in services}
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._started_at = start_time(psutil.Process(), BOOT_TIME)
        self._stop_requests = 0
        self._hand_over_requested = False
        self._successors: dict[int, bool] = {}
        """Process ids of successors that spoke, and whether they can take over; written by their threads."""
        self._answered: set[tuple[str, int]] = set()
        """Names and process ids for which a probe was answered; a set's `add` needs no lock."""

    def run(self) -> int:
        with self._signals(), self._guardian() as guardian:
            try:
                self._loop()
            finally:
                self._watcher.stopping()
                self._stop(guardian)
        return 0

    def _loop(self) -> None:
        while not self._stop_requests:
            changed = self._notice_ends() | self._notice_readiness() | self._hand_over() | self._start_due()
            if changed:
                self._home.publish(self._state())
            self._watcher.tick()
            self._sleep()

    def _sleep(self, limit: float | None = None) -> None:
        """Until a signal, a probe's answer, the next restart, or `limit` seconds."""
        waits = [child.due - time.monotonic() for child in self._children.values() if child.due is not None]
        waits += [child.kill_at - time.monotonic() for child in self._children.values() if child.kill_at is not None]
        waits += [wait for wait in (limit, self._watcher.interval) if wait is not None]
        readable, _, _ = select.select([self._wake_in], [], [], max(0.0, min(waits)) if waits else None)
        if readable:
            os.read(self._wake_in, 4096)

    def _start_due(self) -> bool:
        started = False
        for child in self._children.values():
            first = child.process is None and all(self._children[name].ready for name in child.service.after)
            if first or (child.due is not None and child.due <= time.monotonic()):
                child.start(self._environment)
                self._watch(child)
                started = True
        return started

    def _watch(self, child: Child) -> None:
        process, service = child.process, child.service
        assert process is not None
        key = (service.name, process.pid)
        if service.probe is None:
            self._answered.add(key)
            self._wake()
            return

        def wait_until_ready(probe: str) -> None:
            while child.process is process and process.returncode is None and not self._stop_requests:
                if answers(probe, _PROBE_TIMEOUT):
                    self._answered.add(key)
                    self._wake()
                    return
                time.sleep(_PROBE_INTERVAL)

        threading.Thread(target=wait_until_ready, args=(service.probe,), name=f"probe-{service.name}", daemon=True).start()

    def _hand_over(self) -> bool:
        """Starts successors where that was asked for, and lets those take over that are ready."""
        changed = False
        draining = any(child.predecessor is not None for child in self._children.values())
        wanted = self._hand_over_requested and not draining
        if wanted:
            self._hand_over_requested = False
        for child in self._children.values():
            if wanted and child.service.hands_over and child.successor is None:
                self._listen(child, child.start_successor(self._environment))
            if child.successor is not None and child.successor.pid in self._successors:
                if self._successors.pop(child.successor.pid):
                    child.take_over()
                    if not child.ready:
                        self._watch(child)
                else:
                    child.give_up_successor()
                changed = True
        return changed

    def _listen(self, child: Child, reader: int) -> None:
        assert child.successor is not None
        pid = child.successor.pid

        def wait_for_word() -> None:
            heard, _, _ = select.select([reader], [], [], _SUCCESSOR_PATIENCE)
            self._successors[pid] = bool(heard and os.read(reader, 1))
            os.close(reader)
            self._wake()

        threading.Thread(target=wait_for_word, name=f"successor-{child.service.name}", daemon=True).start()

    def _notice_readiness(self) -> bool:
        changed = False
        for child in self._children.values():
            if not child.ready and child.process is not None and (child.service.name, child.process.pid) in self._answered:
                child.ready = changed = True
                self._watcher.ready(child)
        return changed

    def _notice_ends(self) -> bool:
        changed = False
        self._reap_orphans()
        for child in self._children.values():
            child.end_predecessor()
            if child.process is not None and child.due is None and child.successor is None and not child.running:
                self._answered.discard((child.service.name, child.process.pid))
                delay = child.plan_restart()
                self._watcher.ended(child, child.process.returncode, delay)
                changed = True
        return changed

    def _reap_orphans(self) -> None:
        """As the first process of a container this one inherits every orphan, and nobody else would take note of their end."""
        if os.getpid() != 1:
            return
        own = {pid for child in self._children.values() for pid in child.pids()}
        for child in self._children.values():
            _ = child.running  # takes note of our own first, so that they do not hide the others below
            child.end_predecessor()
        try:
            while (end := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and end.si_pid not in own:
                os.waitpid(end.si_pid, 0)
        except ChildProcessError:
            return

    def _stop(self, guardian: int) -> None:
        """SIGTERM rank by rank, each with its time; a second request ends everything at once.

        What the services started (run workers, trainers) gets its time before the last rank: it may need those services to end well.
        """
        ranks = sorted({child.service.stop_rank for child in self._children.values()})
        for rank in ranks:
            if rank == ranks[-1]:
                keep = [member.pid for child in self._children.values() if child.service.stop_rank == rank for member in child.group()]
                self._sweep(guardian, *keep)
            children = [child for child in self._children.values() if child.service.stop_rank == rank and child.process is not None]
            for child in children:
                child.signal_group(signal.SIGTERM)
            started = time.monotonic()
            while alive := [child for child in children if child.running or child.group()]:
                for child in alive:
                    if self._stop_requests > 1 or time.monotonic() - started > child.service.grace:
                        child.signal_group(signal.SIGKILL)
                self._sleep(0.1)
        self._sweep(guardian)
        self._reap_orphans()

    def _sweep(self, *spare: int) -> None:
        sweep(self._home.instance, grace=_RUN_GRACE, spare=spare, hurry=lambda: self._stop_requests > 1)

    def _state(self) -> dict[str, object]:
        supervisor = {"pid": os.getpid(), "started_at": self._started_at, "boot_time": BOOT_TIME}
        return {"supervisor": supervisor, "services": {name: child.state() for name, child in self._children.items()}}

    def _wake(self) -> None:
        try:
            os.write(self._wake_out, b"w")
        except BlockingIOError:  # full: it will wake anyway
            return

    @contextmanager
    def _guardian(self) -> Iterator[int]:
        command = [sys.executable, "-m", "llm_platform.supervisor.guardian", self._home.instance]
        guardian = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            yield guardian.pid
        finally:
            guardian.communicate(b"q")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def request_stop(_number: int, _frame: FrameType | None) -> None:
            self._stop_requests += 1

        def note(_number: int, _frame: FrameType | None) -> None:
            """The wake-up descriptor has done the work."""

        def hand_over(_number: int, _frame: FrameType | None) -> None:
            self._hand_over_requested = True

        wanted = {signal.SIGINT: request_stop, signal.SIGTERM: request_stop, signal.SIGCHLD: note, signal.SIGUSR1: hand_over}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup a hang-up is not to be heard
            wanted[signal.SIGHUP] = request_stop
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        descriptor = signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
