"""How a benchmark says what it measured: a table for people, then one line of JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from rich.console import Console
from rich.table import Table


def report(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], figures: Mapping[str, object], packages: Sequence[str]
) -> None:
    """Prints both. `figures` are the results by their public names; of `packages`, the versions are told."""
    console = Console(width=None if Console().is_terminal else 120)
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(table)
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    line = {**figures, "cores": os.cpu_count(), "versions": versions, "date": datetime.now(UTC).date().isoformat()}
    print(json.dumps(line), flush=True)
