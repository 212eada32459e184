"""A run's log for a person's eyes: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from llm_platform.client import LogLine

COUNTED = re.compile(r"^(?P<what>.{1,60}): (?P<done>[\d,]+) of (?P<total>[\d,]+) \(\d+%\)$")
"""How the run log says how far something is."""
PLAIN_STEP = 0.1
"""Off a terminal, a line for each tenth of the way."""
COLOURS = {"INFO": "white", "WARN": "yellow", "ERROR": "red", "METRIC": "cyan"}


class RunView:
    """Shows the lines of one run as they come, and keeps what the report needs: the first metric's time, sample answers, and
    what the gate found of each export."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = time.monotonic()
        self.first_metric: float | None = None
        self.examples: list[dict[str, str]] = []
        self.losses: list[float] = []
        self.gates: dict[str, dict[str, Any]] = {}
        self._agent: str | None = None
        self._steps = 0
        self._bars: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)

    def __enter__(self) -> RunView:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def show(self, line: LogLine) -> None:
        """One line of the log."""
        if line.agent_name is not None and line.agent_name != self._agent:
            self._agent = line.agent_name
            self.console.print(f"[bold]{self.seconds:6.1f} s  {escape(line.agent_name)}[/bold] [dim]({escape(line.agent or '')})[/dim]")
        extra = line.extra
        counted = COUNTED.match(line.message)
        if isinstance(extra.get("example"), dict):
            self.examples.append({name: str(value) for name, value in extra["example"].items()})
        elif line.level == "METRIC":
            self._metric(line.message, extra)
        elif counted is not None:
            done, total = (int(counted[name].replace(",", "")) for name in ("done", "total"))
            self._advance(counted["what"], done, total, "")
        else:
            if isinstance(extra.get("gate"), dict):
                self.gates[str(extra.get("export"))] = extra["gate"]
            if isinstance(extra.get("steps"), int):
                self._steps = extra["steps"]
            colour = COLOURS.get(line.level, "white")
            self.console.print(f"          [{colour}]{escape(line.message)}[/{colour}]", highlight=False, soft_wrap=True)

    def _metric(self, message: str, extra: dict[str, Any]) -> None:
        if self.first_metric is None:
            self.first_metric = self.seconds
        loss, step = extra.get("loss"), extra.get("step")
        if not isinstance(loss, int | float) or not isinstance(step, int):
            self.console.print(f"          [cyan]{escape(message)}[/cyan]", highlight=False)
            return
        self.losses.append(float(loss))
        self._advance("training steps", step, int(extra.get("total_steps") or self._steps or step), f"loss {loss:.3f}")

    def _advance(self, what: str, done: int, total: int, note: str) -> None:
        if self.console.is_terminal:
            if what not in self._bars:
                self._bars[what] = self._progress.add_task(escape(what), total=total, note="")
            self._progress.update(self._bars[what], completed=done, total=total, note=f"[cyan]{note}[/cyan]")
            return
        share = done / max(total, 1)
        if share >= 1 or share - self._told.get(what, -1.0) >= PLAIN_STEP:
            self._told[what] = share
            self.console.print(f"          {what}: {done:,} of {total:,}  {note}".rstrip(), highlight=False)
