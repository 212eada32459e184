"""Bars for people who wait: in a terminal and in a notebook, nowhere else."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

from llm_platform.specs.resources import Job

Progress = Callable[[int, int], None]
BAR = 30


class WatchedFile(io.BufferedReader):
    """A file that tells how far it was read, in bytes of `total`: that is how far an upload has come. Without `on_progress`, a bar."""

    def __init__(self, path: Path, on_progress: Progress | None) -> None:
        super().__init__(io.FileIO(path))
        self._total = path.stat().st_size
        self._on_progress = on_progress or (_upload_bar(path.name) if watched() else None)

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self._on_progress is not None and data:
            self._on_progress(self.tell(), self._total)
        return data


class JobBar:
    """A job's nodes, as far as they have finished. Shows nothing where nobody watches."""

    def __init__(self) -> None:
        self._shown = watched()
        self._width = 0

    def show(self, job: Job) -> None:
        if not self._shown:
            return
        done, total = len(job.progress.completed_agents), job.progress.total_agents
        what = job.progress.current_agent if job.status == "running" else None
        line = f"{job.job_id}  [{_bar(done, total)}]  {done} of {total}  {what or job.status}"
        end = "\n" if job.status in ("completed", "failed", "cancelled") else ""
        print(f"\r{line:<{self._width}}", end=end, file=sys.stderr, flush=True)
        self._width = len(line)


def watched() -> bool:
    """Whether a person sees what is written to stderr."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _upload_bar(name: str) -> Progress:
    def show(sent: int, total: int) -> None:
        line = f"\rUploading {name}  [{_bar(sent, total)}]  {sent / 1e6:,.1f} of {total / 1e6:,.1f} MB"
        print(line, end="\n" if sent >= total else "", file=sys.stderr, flush=True)

    return show


def _bar(done: int, total: int) -> str:
    filled = BAR * done // max(total, 1)
    return "#" * filled + "." * (BAR - filled)
