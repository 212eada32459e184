"""What a person sees of the platform in the terminal: a spinner until all is reachable, the addresses, and what happens after."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from llm_platform.supervisor.service import Child


class View:
    """A `Watcher` that prints. With `verbose` it also passes on what the services log."""

    def __init__(self, console: Console, names: Sequence[str], addresses: Mapping[str, str], logs: Path, *, verbose: bool = False) -> None:
        self._console = console
        self._addresses = addresses
        self._waiting = list(names)
        self._announced = False
        self._began = time.monotonic()
        self._tail = LogTail({name: logs / f"{name}.log" for name in names}, console) if verbose else None
        self._status: Status | None = None
        if console.is_terminal:
            self._status = console.status(self._progress())
            self._status.start()

    @property
    def interval(self) -> float | None:
        return 0.2 if self._tail else None

    def ready(self, child: Child) -> None:
        name = child.service.name
        if name in self._waiting:
            self._waiting.remove(name)
            if self._status:
                self._status.update(self._progress())
        elif child.restarts:
            self._console.print(f"[green]{name} runs again.[/green]")
        if not self._waiting and not self._announced:
            self._announced = True
            self._hide_status()
            self._console.print(self._table())
            self._console.print(f"Ready after {time.monotonic() - self._began:.1f} s. Ctrl-C stops everything.")

    def ended(self, child: Child, code: int, restart_in: float) -> None:
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        when = f"in {restart_in:.0f} s" if restart_in else "now"
        self._console.print(
            f"[yellow]{child.service.name} ended {how}; it is started again {when}. Its log: {escape(str(child.log))}[/yellow]",
            soft_wrap=True,
        )

    def stopping(self) -> None:
        self._hide_status()
        self._console.print("Stopping (Ctrl-C again ends everything at once) ...")

    def tick(self) -> None:
        if self._tail:
            self._tail.print_new()

    def _progress(self) -> str:
        return f"Starting the platform; waiting for {', '.join(self._waiting)}"

    def _hide_status(self) -> None:
        if self._status:
            self._status.stop()
            self._status = None

    def _table(self) -> Table:
        table = Table(title="LLM platform", title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for what, where in self._addresses.items():
            table.add_row(what, escape(where))
        return table


class LogTail:
    """Prints what is appended to some files, each line behind the name of its service."""

    def __init__(self, files: Mapping[str, Path], console: Console) -> None:
        self._files = files
        self._console = console
        self._positions = {name: path.stat().st_size if path.exists() else 0 for name, path in files.items()}
        self._rests = dict.fromkeys(files, b"")

    def print_new(self) -> None:
        for name, path in self._files.items():
            if not path.exists():
                continue
            with path.open("rb") as file:
                if path.stat().st_size < self._positions[name]:  # rotated
                    self._positions[name] = 0
                file.seek(self._positions[name])
                *lines, self._rests[name] = (self._rests[name] + file.read()).split(b"\n")
                self._positions[name] = file.tell()
            for line in lines:
                text = line.decode(errors="replace")
                self._console.print(f"{name:>17} | {text}", markup=False, highlight=False, soft_wrap=True)
