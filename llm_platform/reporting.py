"""How work tells what it does, without knowing who listens.

Every long-running function of the library takes a `Reporter`. The platform hands in one that writes to the run's log
(`runlog.RunLogReporter`); a notebook or a terminal uses `ConsoleReporter`; a test collects lines with `ListReporter`.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

from llm_platform.errors import Cancelled


class Reporter(Protocol):
    """Where the lines of a run go. Every method returns at once and never raises, save `check_cancelled`."""

    def info(self, message: str, **data: Any) -> None: ...

    def warn(self, message: str, **data: Any) -> None: ...

    def error(self, message: str, **data: Any) -> None: ...

    def metric(self, message: str, *, step: int, epoch: float, **values: float) -> None:
        """One METRIC line; `values` are finite numbers by their public names (`loss`, `learning_rate`, ...)."""
        ...

    def progress(self, done: int, total: int, what: str) -> None:
        """How far the work is; called as often as convenient, throttled by the receiver."""
        ...

    def check_cancelled(self) -> None:
        """Raises `Cancelled` when the work should stop. Call it between steps."""
        ...


class ConsoleReporter:
    """Lines on standard error, for notebooks and terminals."""

    def info(self, message: str, **data: Any) -> None:
        print(message, file=sys.stderr)

    def warn(self, message: str, **data: Any) -> None:
        print(f"warning: {message}", file=sys.stderr)

    def error(self, message: str, **data: Any) -> None:
        print(f"error: {message}", file=sys.stderr)

    def metric(self, message: str, *, step: int, epoch: float, **values: float) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"step {step}  epoch {epoch:.2f}  {shown}", file=sys.stderr)

    def progress(self, done: int, total: int, what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{what} {done}/{total}", end="\n" if done >= total else "", file=sys.stderr)

    def check_cancelled(self) -> None:
        return None


class Forwarding:
    """Passes everything on; the base of a reporter that adds something to another."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner

    def info(self, message: str, **data: Any) -> None:
        self._inner.info(message, **data)

    def warn(self, message: str, **data: Any) -> None:
        self._inner.warn(message, **data)

    def error(self, message: str, **data: Any) -> None:
        self._inner.error(message, **data)

    def metric(self, message: str, *, step: int, epoch: float, **values: float) -> None:
        self._inner.metric(message, step=step, epoch=epoch, **values)

    def progress(self, done: int, total: int, what: str) -> None:
        self._inner.progress(done, total, what)

    def check_cancelled(self) -> None:
        self._inner.check_cancelled()


class ListReporter(ConsoleReporter):
    """Keeps what was reported, as (level, message, data); `cancel_after` raises `Cancelled` at that many checks."""

    def __init__(self, cancel_after: int | None = None) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.cancel_after = cancel_after
        self.checks = 0

    def info(self, message: str, **data: Any) -> None:
        self.lines.append(("INFO", message, data))

    def warn(self, message: str, **data: Any) -> None:
        self.lines.append(("WARN", message, data))

    def error(self, message: str, **data: Any) -> None:
        self.lines.append(("ERROR", message, data))

    def metric(self, message: str, *, step: int, epoch: float, **values: float) -> None:
        self.lines.append(("METRIC", message, {"step": step, "epoch": epoch, **values}))

    def progress(self, done: int, total: int, what: str) -> None:
        self.lines.append(("PROGRESS", what, {"done": done, "total": total}))

    def check_cancelled(self) -> None:
        self.checks += 1
        if self.cancel_after is not None and self.checks > self.cancel_after:
            raise Cancelled
