"""A platform that may be killed: all of it can be found, by what it is, and it can be started again in the same home folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from llm_platform.settings import Settings
from llm_platform.storage import Storage, storage_from
from tests.e2e.conftest import Running, leftovers, wait_for

SERVICES = ("api", "dagster-daemon", "dagster-code", "dagster-workers", "dagster-webserver", "mlflow")
RUN_PROCESSES = ("run-worker", "llm-node", "node-keeper")
"""Processes of a job, by the name that `ps` shows, but for those that have none of their own (`tail`, which Dagster starts)."""
ZYGOTES = ("run-zygote", "node-zygote")
GPU = "GPU-soak"
"""The one GPU that the platform believes it has, so that its lock is taken for each training. There is none: training runs on the CPU."""
HEALTHY_SECONDS = 150.0
STOP_SECONDS = 60.0


class Faulty:
    """`llm-platform up` in a home folder. It is stopped at the end of its `with` block, whatever happened to it."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        unlimited = {f"LLM_PLATFORM_RATE_LIMIT_{which}": "1000000" for which in ("DEFAULT", "AUTHENTICATED")}
        self.environment = os.environ | unlimited | {"CUDA_VISIBLE_DEVICES": f"{GPU}-{os.getpid()}"} | environment
        self.running: Running

    def __enter__(self) -> Faulty:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        command = [sys.executable, "-m", "llm_platform", "up", "--home", str(self.home), "--port", "0"]
        with (self.home.parent / f"{self.home.name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self._process = process
        running = Running(process, self.home)
        running.connect()
        self.running = running

    def stop(self) -> int:
        """Asks it to stop and waits; how many of its processes are left then, which are killed."""
        self.running.http.close()
        self._process.send_signal(signal.SIGTERM)  # nothing happens if it has ended
        try:
            self._process.wait(STOP_SECONDS)
        finally:
            left = self.processes()
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
        return len(left)

    def processes(self) -> list[psutil.Process]:
        """All that belong to this home, but for the supervisor."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("LLM_PLATFORM_HOME") == str(self.home) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def named(self, *names: str) -> dict[psutil.Process, str]:
        """Processes that show one of these names, with it."""
        found: dict[psutil.Process, str] = {}
        for process in self.processes():
            with suppress(psutil.Error):
                if (name := process.name()) in names:
                    found[process] = name
        return found

    def wait_healthy(self) -> None:
        """All that /health looks at, and the Dagster UI, which it does not."""
        wait_for(self.running.healthy, HEALTHY_SECONDS, "the platform is healthy")

    def kill_everything(self) -> None:
        """As a machine that loses its power: no process has a last word. Then it is started again."""
        self._process.kill()
        self._start_again(lambda: [process.kill() for process in self.processes()])

    def kill_supervisor(self) -> None:
        """What was under it ends by itself. Then it is started again."""
        self._process.kill()
        self._start_again(lambda: None)

    def _start_again(self, meanwhile: Callable[[], object]) -> None:
        self._process.wait()
        self.running.http.close()

        def gone() -> bool:
            with suppress(psutil.Error):
                meanwhile()
            return leftovers(self.home) == []

        wait_for(gone, STOP_SECONDS, "the killed platform's processes are gone")
        self.start()

    @property
    def settings(self) -> Settings:
        """For the library to work on the same home, databases and object store."""
        named = {name.removeprefix("LLM_PLATFORM_").lower(): value for name, value in self.environment.items() if name.startswith("LLM_")}
        known = {name: value for name, value in named.items() if name in Settings.model_fields}
        mlflow = self.environment.get("LLM_PLATFORM_MLFLOW_URL") or self.running.service("mlflow")["url"]
        return Settings.model_validate({**known, "home": self.home, "mlflow_url": mlflow})

    @property
    def storage(self) -> Storage:
        return storage_from(self.settings)
