"""What the demo works on: its rows as CSV files, and its pipeline."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from llm_platform.errors import InvalidConfig
from llm_platform.export.packages import check_gguf
from llm_platform.specs import ExportFormat
from llm_platform.training.tiny_llama import MODEL_NAME, demo_rows

TRAINING_ROWS = 2_000
HELD_OUT_ROWS = 200
SEED = 42


def write_data(folder: Path) -> tuple[Path, Path]:
    """The training rows, and rows whose phrasings do not occur in them, as two CSV files."""
    folder.mkdir(parents=True, exist_ok=True)
    training, held_out = folder / "tickets.csv", folder / "tickets_held_out.csv"
    _write(training, demo_rows(TRAINING_ROWS, SEED))
    _write(held_out, demo_rows(HELD_OUT_ROWS, SEED, held_out=True))
    return training, held_out


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["question", "answer"])
        writer.writeheader()
        writer.writerows(rows)


def formats() -> list[ExportFormat]:
    """GGUF too where its packages are installed."""
    try:
        check_gguf(["f16"])
    except InvalidConfig:
        return ["adapter", "merged"]
    return ["adapter", "merged", "gguf"]


def pipeline(dataset_id: str, held_out_id: str) -> dict[str, Any]:
    """Every agent class once. Trained on one dataset, scored on the other."""
    nodes = [
        ("dataset", "DatasetAgent", {"dataset_id": dataset_id}),
        ("validation", "ValidationAgent", {"rules": {"required_columns": ["question", "answer"]}}),
        (
            "preprocessing",
            "PreprocessingAgent",
            {
                "base_model": MODEL_NAME,
                "clean": True,
                "dedup": True,
                "template": "alpaca",
                "template_mapping": {"instruction": "question", "output": "answer"},
            },
        ),
        (
            "training",
            "TrainingAgent",
            {"method": "lora", "model_name": "ticket-router", "lora_r": 16, "learning_rate": 5e-3, "batch_size": 8, "epochs": 1},
        ),
        ("evaluation", "EvaluationAgent", {"dataset_id": held_out_id, "max_samples": HELD_OUT_ROWS, "max_new_tokens": 24}),
        ("comparison", "ComparisonAgent", {"metric": "accuracy"}),
        ("export", "ExportAgent", {"formats": formats(), "gate": {"rows": 20, "max_new_tokens": 24}}),
        ("report", "NotebookAgent", {"notebook": "evaluate_model"}),
    ]
    edges = [
        ("dataset", "validation"),
        ("validation", "preprocessing"),
        ("preprocessing", "training"),
        ("training", "evaluation"),
        ("evaluation", "comparison"),
        ("training", "export"),
        ("evaluation", "report"),
    ]
    return {
        "nodes": [{"agent_name": name, "agent_class": kind, "config": config} for name, kind, config in nodes],
        "edges": [{"from_agent": source, "to_agent": target} for source, target in edges],
        "global_config": {"max_retries": 1},
    }
