"""What the demo says at the end: figures, sample answers, where everything lies, and how to go on."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llm_platform.client import Model

FIGURES = {"accuracy": "exact answers", "f1": "words in common (F1)", "loss": "loss", "perplexity": "perplexity"}


def figures(console: Console, model: Model) -> None:
    """Base against tuned, on rows whose phrasings training never saw."""
    table = Table(title="On held-out rows", title_justify="left")
    for name in ("", "base model", "fine-tuned"):
        table.add_column(name, justify="right" if name else "left")
    for name, title in FIGURES.items():
        if name in model.metrics:
            base = model.metrics.get(f"base_{name}")
            table.add_row(title, "–" if base is None else f"{base:.3f}", f"[bold green]{model.metrics[name]:.3f}[/bold green]")
    console.print(table)


def gain(model: Model) -> float:
    """How much exact-match accuracy fine-tuning added, from -1 to 1."""
    return model.metrics.get("accuracy", 0.0) - model.metrics.get("base_accuracy", 0.0)


def answers(console: Console, examples: list[dict[str, str]]) -> None:
    if not examples:
        return
    table = Table(title="Sample answers", title_justify="left", show_lines=True)
    for name in ("question", "base model", "fine-tuned", "expected"):
        table.add_column(name, overflow="fold")
    for example in examples:
        right = example.get("tuned", "").strip() == example.get("reference", "").strip()
        colour = "green" if right else "red"
        table.add_row(
            escape(question(example.get("prompt", ""))),
            f"[dim]{escape(shortened(example.get('base', '–')))}[/dim]",
            f"[{colour}]{escape(shortened(example.get('tuned', '')))}[/{colour}]",
            escape(example.get("reference", "")),
        )
    console.print(table)


def exports(console: Console, gates: dict[str, dict[str, Any]]) -> None:
    """What each exported file answers in the program that runs it, beside the model that was evaluated."""
    table = Table(title="Exports, each asked the same test rows", title_justify="left")
    for name in ("", "asked in", "equal answers", "log-probabilities off by", ""):
        table.add_column(name, justify="right" if name in ("equal answers", "log-probabilities off by") else "left")
    for name, gate in gates.items():
        verdict = "[green]accepted[/green]" if gate["accepted"] else "[red]rejected[/red]"
        equal = f"{gate['agreement']:.0%} of {gate['rows']}"
        table.add_row(escape(name), gate["runtime"], equal, f"{gate['logit_difference']:.2g} nats", verdict)
    if gates:
        console.print(table)


def question(prompt: str) -> str:
    """The part of a rendered prompt that the customer wrote."""
    return prompt.split("### Instruction:")[-1].split("### Response:")[0].strip()


def shortened(text: str, most: int = 120) -> str:
    text = " ".join(text.split()) or "(nothing)"
    return text if len(text) <= most else f"{text[:most]} …"


def places(console: Console, output: Path, home: Path, data: Path) -> None:
    console.print("\n[bold]Where it lies[/bold]")
    rows = {"adapter": output / "adapter", "merged model": output / "merged", "GGUF, Modelfile": output / "gguf"}
    rows = {name: path for name, path in rows.items() if path.exists()} | {"model card": output / "MODEL_CARD.md"}
    for name, path in {**rows, "the rows, as CSV": data, "everything else": home}.items():
        console.print(f"  {name:<18}{_short(path)}", markup=False, highlight=False, soft_wrap=True)


def _short(path: Path) -> Path:
    """The path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _command() -> str:
    """How the command is called from this shell, where the environment may not be active."""
    return "llm-platform" if shutil.which("llm-platform") else str(_short(Path(sys.executable).parent / "llm-platform"))


def explore(console: Console, home: Path, api: str | None, dagster: str | None, mlflow: str | None, run_id: str, model_id: str) -> None:
    """Commands to copy. `api` is the address of the platform if it goes on running; else they begin with starting it again."""
    console.print("\n[bold]Explore further[/bold]")
    lines = []
    if api is None:
        lines += ["  Start the platform again, with this job and model in it:", f"    {_command()} up --home {_short(home)}"]
        api, dagster, mlflow = "http://localhost:8000/api/v1", "address as printed", "address as printed"
    lines += [
        f"  Dagster UI   {dagster}: Assets > adapters > partition {run_id}, for figures, checks and the executed notebook",
        f"  MLflow UI    {mlflow}: Models > ticket-router, for curves, config and lineage",
        f"  REST         curl -s {api}/models | python3 -m json.tool",
        f"               curl -s {api}/models/{model_id}/card",
        "  Python       from llm_platform import Client",
        f'               print(Client("{api}").models.get("{model_id}").card())',
        "  Your own data: docs/guides/first-fine-tuning.md",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
