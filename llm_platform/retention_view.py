"""What is old, in a terminal: `llm-platform prune`."""

from __future__ import annotations

import re
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from llm_platform.audit import record_command
from llm_platform.errors import InvalidInput
from llm_platform.retention import Kind, Pruned
from llm_platform.settings import Settings

_UNITS = {"h": 1 / 24, "d": 1.0, "w": 7.0}
_SHOWN: dict[Kind, str] = {
    "upload": "Uploads that broke off",
    "dataset": "Stored files of uploads that nobody finished",
    "half-written": "Half-written objects",
    "work": "Checkpoints and temporary folders",
    "copy": "Local copies of stored files",
    "run": "Dagster runs with their events and output",
    "log": "Logs of jobs",
    "artifacts": "Artifacts of jobs, but for their models",
    "cache": "Shared tables, prepared rows and base answers",
}


def main(older_than: str | None, yes: bool, as_json: bool, settings: Settings) -> int:
    """Runs `dagster_project.prune`, which may know Dagster, and shows what it found; its exit code."""
    from llm_platform.supervisor.platform import environment

    days = settings.retention_days if older_than is None else age_days(older_than)
    variables = environment(settings, 0)
    if settings.mlflow_url is None:
        variables.pop("LLM_PLATFORM_MLFLOW_URL", None)  # no port is known here: settings find it as they do elsewhere
    command = [sys.executable, "-m", "dagster_project.prune", str(days), *(["--yes"] if yes else [])]
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        if yes:  # some of it may be gone
            record_command(settings, "store.prune", f"older than {days:g} days; broke off")
        return done.returncode
    found = Pruned.model_validate_json(done.stdout)
    if yes:
        record_command(settings, "store.prune", f"older than {days:g} days: {len(found.items)} things, {found.size_bytes} bytes")
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        show(found, Console())
    return 0


def age_days(text: str) -> float:
    """The days of an age such as 30d, 2w or 12h. Raises InvalidInput."""
    match = re.fullmatch(r"(\d{1,6})([hdw])", text.strip())
    if match is None or int(match[1]) == 0:
        raise InvalidInput(f"--older-than: '{text[:20]}' is no age; write a number with h, d or w, such as 30d")
    return int(match[1]) * _UNITS[match[2]]


def show(found: Pruned, console: Console) -> None:
    table = Table("", "number", "bytes", box=None, header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, (count, size) in found.totals().items():
        table.add_row(_SHOWN[kind], f"{count:,}", f"{size:,}")
    if found.items:
        console.print(table)
    for reason in found.skipped:
        console.print(f"Kept: {reason}", markup=False, highlight=False)
    what = f"{len(found.items):,} things, {found.size_bytes:,} bytes, older than {found.cutoff:%Y-%m-%d %H:%M} UTC"
    if not found.items:
        console.print("Nothing is old enough to go", highlight=False)
    elif found.dry_run:
        console.print(f"{what}, would go; nothing was removed. Remove it with: llm-platform prune --yes", highlight=False)
    else:
        console.print(f"{what}, are removed", highlight=False)
