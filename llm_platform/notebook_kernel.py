"""One execution of one notebook by papermill, in a kernel of this same Python, that can be stopped from outside.

Imports papermill, which takes a second: import this module only where a notebook is about to run.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.execute import execute_notebook

from llm_platform.notebook_process import MARKER, kill_all
from llm_platform.reporting import Reporter

ENGINE = "llm-platform"
START_TIMEOUT = 60
KILL_ROUNDS = 50
MAX_LINES = 1_000
"""Lines of output that go to the run's log; the notebook itself keeps all."""
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(^|_)API_?KEY|_KEY$|_KEY_ID$|^KEY$|AUTH", re.IGNORECASE)
SECRET_PREFIXES = ("LLM_PLATFORM_S3_", "AWS_", "DAGSTER_")
SECRET_VALUE = re.compile(r"://[^/\s]*@")


def kernel_environment(environment: dict[str, str], scratch: Path) -> dict[str, str]:
    """What a notebook's code may see of this process's environment: no keys, tokens, passwords or URLs that hold one."""
    kept = {
        name: value
        for name, value in environment.items()
        if not (SECRET.search(name) or name.startswith(SECRET_PREFIXES) or SECRET_VALUE.search(value))
    }
    # Pictures belong into the notebook, whatever back end this process draws with.
    kept.pop("MPLBACKEND", None)
    # The user's own IPython start-up files and history have no part in a run that can be repeated.
    return kept | {"IPYTHONDIR": str(scratch / "ipython"), "PYDEVD_DISABLE_FILE_VALIDATION": "1", MARKER: str(scratch)}


class _ThisPython(KernelSpecManager):
    """Every kernel is this Python: a registered kernel of the same name may lack the platform, or be another machine's."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        module = ["-m", "llm_platform.notebook_process", str(os.getpid())]
        argv = [sys.executable, *module, "-f", "{connection_file}", "--HistoryManager.enabled=False"]
        return KernelSpec(argv=argv, name=kernel_name, display_name="Python 3", language="python")


class Execution:
    """Runs in a thread of its own, so that a signal or a time limit reaches the waiting thread at once, whatever the
    kernel does. `done` is set at the end; `error` then holds what went wrong."""

    def __init__(
        self, notebook: Path, parameters: dict[str, Any], out: Path, scratch: Path, reporter: Reporter, hide: Callable[[str], str]
    ) -> None:
        """`hide` takes out of a line for the log what only this machine should know."""
        self.done = threading.Event()
        self.error: Exception | None = None
        self.reporter = reporter
        self.current = 0
        self._notebook = notebook
        self._parameters = parameters
        self._out = out
        self.scratch = scratch
        self._lines = 0
        self._hide = hide
        self._stopped = False
        self.environment = kernel_environment(dict(os.environ), scratch)
        # Sockets in a folder of this user's, not ports; the system's own, because a socket's path may have 107 characters.
        self._sockets = tempfile.TemporaryDirectory(prefix="nb-")
        connection = str(Path(self._sockets.name) / "kernel.json")
        self.manager = AsyncKernelManager(
            kernel_name="python3", kernel_spec_manager=_ThisPython(), transport="ipc", connection_file=connection
        )
        self._thread = threading.Thread(target=self._run, name="notebook", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Kills the kernel and all that it started, and waits for the thread to notice."""
        self._stopped = True
        while not self.done.is_set():
            self._kill()
            # A kernel that is only just being started can be killed at the next try.
            self.done.wait(0.2)
        self._thread.join()

    def memory_mb(self) -> float:
        """What the kernel and its children have in memory, in MiB; 0 before and after."""
        total = 0
        for process in self._processes():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total / 2**20

    def cell_starts(self, number: int, count: int) -> None:
        self.current = number
        self.reporter.progress(number - 1, count, "cells")
        if self._stopped:
            raise InterruptedError("the notebook was stopped")

    def output(self, text: str) -> None:
        for line in text.splitlines():
            if line.strip():
                self._lines += 1
                if self._lines <= MAX_LINES:
                    self.reporter.info(self._hide(line))
                elif self._lines == MAX_LINES + 1:
                    self.reporter.info(f"More than {MAX_LINES:,} lines of output; the rest is in the notebook only")

    def _run(self) -> None:
        loop = ensure_event_loop()
        try:
            execute_notebook(
                _path(self._notebook),
                _path(self._out),
                self._parameters,
                engine_name=ENGINE,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                start_timeout=START_TIMEOUT,
                execution=self,
            )
        except Exception as error:
            self.error = error
        finally:
            self._kill()
            loop.close()
            self._sockets.cleanup()
            self.done.set()

    def _kill(self) -> None:
        """Looks again until nothing is left: what is being started while it looks is found the next time."""
        for _ in range(KILL_ROUNDS):
            # A child without the kernel's environment is only known as long as the kernel is there.
            tree = self._processes()
            found = kill_all(self.scratch)
            for process in tree:
                with suppress(psutil.Error):
                    process.kill()
            if not found:
                break
            time.sleep(0.02)

    def _processes(self) -> list[psutil.Process]:
        """The kernel's children and the kernel."""
        pid: int | None = getattr(self.manager.provisioner, "pid", None)
        with suppress(psutil.Error):
            if pid:
                kernel = psutil.Process(pid)
                return [*kernel.children(recursive=True), kernel]
        return []


class _Client(PapermillNotebookClient):
    """papermill's client, which tells the execution what happens."""

    execution: Execution

    def log_output_message(self, output: Any) -> None:
        if output.output_type == "stream":
            self.execution.output("".join(output.text))
        elif "text/plain" in output.get("data", {}) and set(output.data) == {"text/plain"}:
            self.execution.output("".join(output.data["text/plain"]))


class _Engine(Engine):
    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
        execution: Execution = kwargs["execution"]
        # Numbered as the notebook shows them, In [1] and on.
        code = [index for index, cell in enumerate(nb_man.nb.cells) if cell.cell_type == "code" and cell.source.strip()]

        def starts(cell: Any, cell_index: int) -> None:
            execution.cell_starts(code.index(cell_index) + 1, len(code))

        client = _Client(
            nb_man,
            km=execution.manager,
            kernel_name=kernel_name,
            timeout=None,
            startup_timeout=kwargs["start_timeout"],
            shutdown_kernel="immediate",
            log_output=True,
            on_cell_execute=starts,
        )
        client.execution = execution
        return client.execute(env=execution.environment, cwd=str(execution.scratch), cleanup_kc=True)


def _path(path: Path) -> str:
    """papermill takes braces in a path for placeholders."""
    return str(path).replace("{", "{{").replace("}", "}}")


papermill_engines.register(ENGINE, _Engine)
