"""A platform of the demo's own: `llm-platform up` on free ports, in a process that ends with the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from llm_platform.client import Client
from llm_platform.errors import ServiceUnavailable
from llm_platform.services import running_service
from llm_platform.settings import Settings
from llm_platform.supervisor import leash

START_SECONDS = 180.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.2
LOG_TAIL = 20


class Server:
    """Use it as a context manager: however it is left, none of the platform's processes is there any more."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home / "demo.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the platform is healthy. Raises ServiceUnavailable with what it said if it does not come up."""
        self.home.mkdir(parents=True, exist_ok=True)
        up = [sys.executable, "-m", "llm_platform", "up", "--port", "0", "--home", str(self.home)]
        # Should the demo be killed, the platform is asked to stop all the same.
        leashed = [sys.executable, "-I", "-S", str(Path(leash.__file__)), str(os.getpid()), *up]
        # The demo looks more often than a client should; and its platform, on this machine only, knows no keys.
        raised = {"LLM_PLATFORM_RATE_LIMIT_DEFAULT": "1000000", "LLM_PLATFORM_AUTHENTICATION": "false"}
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches the demo alone, which then stops the platform in good order.
            self._process = subprocess.Popen(
                leashed, env=os.environ | raised, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._wait()

    def address(self, service: str) -> str | None:
        """Where a service of this platform answers; None while it is not up."""
        found = running_service(Settings(home=self.home), service)
        return found.url if found is not None and found.alive else None

    @property
    def api(self) -> str:
        url = self.address("api")
        if url is None:
            raise ServiceUnavailable("The platform's API is not running")
        return f"{url}/api/v1"

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait(self) -> None:
        """Until the platform ends by itself, or the caller is interrupted."""
        if self._process is not None:
            self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        state = "it did not answer"
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise ServiceUnavailable(f"The platform ended while it started:\n{self.log_tail()}")
            if self.address("api") is not None:
                with suppress(ServiceUnavailable), Client(self.api, timeout=5, max_retries=0) as client:
                    health = client.health()
                    if health.status == "healthy":
                        return
                    state = ", ".join(f"{name} {status}" for name, status in health.services.items())
            time.sleep(POLL_SECONDS)
        raise ServiceUnavailable(f"The platform did not become healthy within {START_SECONDS:.0f} seconds ({state}):\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines that the platform wrote, which usually say what is wrong."""
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:])
        return ""
