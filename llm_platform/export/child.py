"""llama.cpp's programs as child processes: they can be stopped at once, and what crashes in them crashes alone."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from llm_platform.reporting import Reporter

POLL_SECONDS = 0.1
_TOLD, _ERROR = re.compile(r"[\d.]+ [DIW] "), re.compile(r"[\d.]+ E ")
"""How lines of llama.cpp's log begin that are no errors, and that are."""


def run_child(command: Sequence[str], log: Path, reporter: Reporter, told: Callable[[], None] = lambda: None) -> int:
    """Runs a command with its output in `log` and returns its exit status; `told` is called while it runs.

    It is killed if the reporter says that the work is cancelled. It stays in the caller's process group, so that whoever ends that
    ends the child too.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while True:
                try:
                    return process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    reporter.check_cancelled()
                    told()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def why_failed(log: Path, hidden: Sequence[Path]) -> str:
    """llama.cpp's first error in a failed child's log, or else its last line, without the folders it worked in."""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip() and not _TOLD.match(line)]
    first = next((line.partition(" E ")[2] for line in lines if _ERROR.match(line)), None)
    text = first or (lines[-1] if lines else "it said nothing")
    for folder in hidden:
        text = text.replace(str(folder), folder.name)
    return " ".join(text.split())[:300]
