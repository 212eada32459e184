"""The demo's steps, in order: start, upload, submit, follow, compare, download, stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from llm_platform.client import Client, Job, Model
from llm_platform.demo import report
from llm_platform.demo.pipeline import formats, pipeline, write_data
from llm_platform.demo.server import Server
from llm_platform.demo.view import RunView
from llm_platform.errors import PlatformError
from llm_platform.settings import Settings
from llm_platform.training.base_model import is_ready
from llm_platform.training.tiny_llama import MODEL_NAME, ensure

HOME = Path(".home") / "demo"
LEAST_GAIN = 0.5
"""The demo has failed if fine-tuning adds less than this to the share of exact answers."""


def main(home: Path | None = None, keep: bool = False, output: Path | None = None) -> int:
    """Runs the demo on a platform of its own, in `home`, and returns the exit code. With `keep` the platform goes on until Ctrl-C."""
    console = Console(highlight=False)
    home = (home or HOME).expanduser().absolute()
    try:
        with _interruptible():
            return _run(console, home, output or home / "output", keep)
    except PlatformError as error:
        console.print(f"[bold red]The demo failed:[/bold red] {escape(error.message)}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted; the platform was stopped.")
        return 130


def _run(console: Console, home: Path, output: Path, keep: bool) -> int:
    began = time.monotonic()
    console.print(
        "[bold]LLM platform demo[/bold]: customer messages go in, a model that routes them to the right team comes out.\n"
        "No download, no GPU: the base model is built here the first time (some minutes), then fine-tuned with LoRA.\n"
    )
    with Server(home) as server:
        with console.status("Starting the platform: API, Dagster, MLflow ..."):
            server.start()
        console.print(f"Platform ready after {time.monotonic() - began:.1f} s: {server.api}")
        for name, service in {"Dagster UI": "dagster-webserver", "MLflow UI": "mlflow"}.items():
            console.print(f"  {name:<11}{server.address(service) or '(starting)'}")
        _base_model(console)
        with Client(server.api) as client:
            code, job, model = _fine_tune(console, client, home, output)
        console.print(f"\nThe whole demo took {time.monotonic() - began:.0f} s.")
        if model is not None:
            dagster, mlflow = server.address("dagster-webserver"), server.address("mlflow")
            report.explore(console, home, server.api if keep else None, dagster, mlflow, job.run_id, model.model_id)
        if keep:
            console.print(f"\nThe platform goes on at {server.api}; Ctrl-C stops it.")
            server.wait()
        with console.status("Stopping the platform ..."):
            server.stop()
    console.print("Platform stopped.")
    return code


def _base_model(console: Console) -> None:
    """Builds the base model if this machine has none yet. A job would do it too; here it has a bar and a line of its own."""
    cache = Settings().cache
    if is_ready(MODEL_NAME, Settings()):
        return
    began = time.monotonic()
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        ensure(cache, show)
    console.print(f"Base model {MODEL_NAME} built in {time.monotonic() - began:.0f} s, once for this machine.")


def _fine_tune(console: Console, client: Client, home: Path, output: Path) -> tuple[int, Job, Model | None]:
    """(exit code, job, model): the main job through the SDK."""
    data = home / "data"
    training_file, held_out_file = write_data(data)
    training, held_out = client.datasets.upload(training_file), client.datasets.upload(held_out_file)
    console.print("\n[bold]Upload[/bold]")
    for uploaded, what in ((training, "to train on"), (held_out, "to score on, in phrasings that training never sees")):
        console.print(f"  {uploaded.dataset_id}  {uploaded.filename}: {uploaded.analysis.rows:,} rows {what}", soft_wrap=True)
    for row in client.datasets.preview(training.dataset_id, limit=2).samples:
        console.print(f"  [dim]{escape(report.shortened(row['question']))}  →  {escape(row['answer'])}[/dim]", soft_wrap=True)

    config = pipeline(training.dataset_id, held_out.dataset_id)
    job = client.jobs.create(config)
    console.print("\n[bold]Pipeline[/bold]")
    console.print(f"  {' → '.join(node['agent_name'] for node in config['nodes'])}")
    console.print(f"  {job.job_id} submitted\n")

    with RunView(console) as view:
        try:
            for line in client.logs.stream(job.run_id):
                view.show(line)
        except BaseException:
            # Whoever stops the demo does not want its job to go on when the platform is next started.
            _cancel(client, job)
            raise
    job = client.jobs.wait(job, timeout=30)
    if job.status != "completed":
        _explain(console, job)
        return 1, job, None
    console.print(f"\n[bold]Job completed in {view.seconds:.1f} s[/bold] (first training metric after {view.first_metric or 0:.1f} s)\n")

    model = client.models.get(job.model_id)
    report.figures(console, model)
    report.answers(console, view.examples)
    report.exports(console, view.gates)
    for name in formats():
        model.download(format=name, path=output / name)
    (output / "MODEL_CARD.md").write_text(model.card(), encoding="utf-8")
    report.places(console, output, home, data)
    gain = report.gain(model)
    if gain < LEAST_GAIN:
        console.print(
            f"[bold red]Fine-tuning added only {100 * gain:.0f} points of exact answers; at least {100 * LEAST_GAIN:.0f} were expected."
        )
        return 1, job, model
    return 0, job, model


def _explain(console: Console, job: Job) -> None:
    error = job.error
    console.print(
        f"[bold red]The job has {job.status}[/bold red]{f': {error.code}: {escape(error.message)}' if error else '.'}", soft_wrap=True
    )
    for line in error.metadata.get("traceback", []) if error else []:
        console.print(f"  {line}", markup=False)


def _cancel(client: Client, job: Job) -> None:
    try:
        client.jobs.cancel(job)
    except PlatformError:
        return  # it has ended, or the platform is gone: nothing is left to cancel


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that the platform is stopped on the way out."""

    def interrupt(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
