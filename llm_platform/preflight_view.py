"""The preflight in a terminal: `llm-platform preflight FILE`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_platform.errors import InvalidConfig
from llm_platform.settings import Settings
from llm_platform.specs import PreprocessingConfig, TrainingConfig
from llm_platform.specs.base import spec_from_options
from llm_platform.specs.preflight import Preflight, PreflightNode, PreflightTraining

TRAINED, MASKED = "bold green", "dim"


def main(target: Path, config: Mapping[str, Any], training: Mapping[str, Any], rows: list[int], sample: int, settings: Settings) -> int:
    """Shows the preflight of a data file or a pipeline; 0 if nothing would make the job fail, else 1."""
    pipeline = _pipeline(target)
    console = Console()
    with console.status("Trying the first rows ..."):
        if pipeline is None:
            found = _of_file(target, config, training, rows, sample, settings)
        else:
            found = _of_pipeline({"pipeline_config": pipeline, "rows": rows, "sample_rows": sample}, settings)
    show(found, console)
    return 0 if found.ok else 1


def _pipeline(target: Path) -> dict[str, Any] | None:
    """The pipeline config in a JSON file, bare or as the body of POST /jobs; None for any other file."""
    if target.suffix != ".json":
        return None
    try:
        content = json.loads(target.read_text("utf-8"))
    except (ValueError, UnicodeDecodeError):
        return None
    inner = content.get("pipeline_config", content) if isinstance(content, dict) else None
    return inner if isinstance(inner, dict) and "nodes" in inner else None


def _of_file(
    target: Path, config: Mapping[str, Any], training: Mapping[str, Any], rows: list[int], sample: int, settings: Settings
) -> Preflight:
    from llm_platform import preflight
    from llm_platform.reporting import ConsoleReporter
    from llm_platform.training import base_model

    preprocessing = spec_from_options(PreprocessingConfig, config)
    base_model.resolve(preprocessing.base_model, settings, ConsoleReporter())
    return preflight.of_file(target, preprocessing, spec_from_options(TrainingConfig, training), settings, rows, sample)


def _of_pipeline(body: dict[str, Any], settings: Settings) -> Preflight:
    from llm_platform import preflight
    from llm_platform.database import Database
    from llm_platform.storage import storage_from

    database = Database.from_settings(settings)
    try:
        return preflight.preflight(body, settings, database, storage_from(settings))
    except InvalidConfig as error:
        problems = [f"{item.get('agent') or ''} {item['field']}: {item['message']}".strip() for item in error.metadata.get("errors", [])]
        raise InvalidConfig("; ".join([error.message, *problems])) from error
    finally:
        database.close()


def show(found: Preflight, console: Console) -> None:
    """Tables of counts and estimates, then the rows with their trained tokens in colour, then what is wrong."""
    for node in found.nodes:
        console.print(_counts(node))
        for row in node.shown:
            console.print(_row(node, row.row))
    for training in found.trainings:
        console.print(_estimates(training))
    for problem in found.warnings:
        console.print(Text.assemble(("warning ", "yellow"), f"{problem.agent}: {problem.message}"))
    for problem in found.errors:
        console.print(Text.assemble(("error ", "bold red"), f"{problem.agent}: {problem.message}"))
    console.print(Text("Nothing found that would make the job fail.", "green") if found.ok else Text("This job would fail.", "bold red"))


def _counts(node: PreflightNode) -> Table:
    table = Table(
        title=f"{node.agent_name}: {node.rows_seen:,} of {node.rows_total:,} rows looked at", title_justify="left", show_header=False
    )
    for stage, rows in node.funnel.items():
        table.add_row(stage, f"{rows:,}", style="bold" if stage == "train" else None)
    if node.tokens:
        tokens = node.tokens
        table.add_section()
        table.add_row("tokens", f"{tokens.total:,}")
        table.add_row("of them trained", f"{tokens.trained:,} ({1 - tokens.masked_share:.1%})")
        table.add_row("length (mean, median, p95, max)", f"{tokens.mean:g}, {tokens.median:g}, {tokens.p95:g}, {tokens.max:,}")
        table.add_row("rows that end with EOS", f"{tokens.eos_rows:,} of {tokens.rows:,}")
    return table


def _row(node: PreflightNode, number: int) -> Text:
    """A row's text; what is trained is coloured, what is not is dim."""
    row = next(row for row in node.shown if row.row == number)
    text = Text(f"row {number}: ", style="cyan")
    if row.dropped:
        return text.append(f"dropped ({row.dropped})\n", style="yellow")
    for token in row.tokens:
        text.append(token.text.replace("\n", "↵\n"), style=TRAINED if token.trained else MASKED)
    return text.append("\n")


def _estimates(training: PreflightTraining) -> Table:
    title = f"{training.agent_name}: {training.steps:,} steps on {training.train_rows:,} rows, {training.trainable_parameters:,} parameters"
    table = Table("estimate", "", title=title, title_justify="left")
    for method, memory in training.gpu_memory.items():
        table.add_row(f"GPU memory, {method}", _bytes(memory.total), style="bold" if method == training.method else "dim")
    table.add_row("memory on a CPU", _bytes(training.cpu_memory.total))
    for device, seconds in training.seconds.items():
        table.add_row(f"time on {'this CPU' if device == 'cpu' else device}", _duration(seconds))
    return table


def _bytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{seconds:.1f} s"
        if seconds >= 1
        else "under 1 s"
    )
