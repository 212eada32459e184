"""What a base model answered, kept so that the same base is not asked the same rows twice: `base_key`, `keep`, `known`.

Two jobs that tune one base on one split, or one dataset, share the base's answers: only what they compare it with is new.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from llm_platform.data.digest import digest
from llm_platform.errors import StorageError
from llm_platform.evaluation.benchmarks import BenchmarkFigure, Benchmarks
from llm_platform.evaluation.figures import GENERATED
from llm_platform.specs import EvaluationConfig
from llm_platform.specs.comparison import Cost
from llm_platform.training.adapter import ends
from llm_platform.training.base_model import model_digest
from llm_platform.training.device import pick_device

CODE_VERSION = "evaluation-1"
"""Part of every key. Raise it when the same base, rows and settings would give other answers, scores or losses."""
PACKAGES = ("torch", "transformers")
COLUMNS, FACTS = "base.parquet", "base.json"


def base_key(config: EvaluationConfig, base_model: Path, tuned: Path, rows: Path, benchmark_tasks: Path | None = None) -> str:
    """The content address of the base model's part of an evaluation of `tuned`, without computing it.

    The tuned model's folder says what ends an answer and how tokens become text, also for its base.
    """
    device, dtype = pick_device(0)
    asked: dict[str, Any] = config.model_dump(mode="json", include={"max_samples", "max_new_tokens", "batch_size"})
    asked |= {"answers": bool(set(GENERATED) & set(config.metrics)), "loss": bool({"loss", "perplexity"} & set(config.metrics))}
    asked |= {"benchmarks": Benchmarks(tuple(config.benchmarks), benchmark_tasks).digest if config.benchmarks else None}
    runtime = {name: version(name) for name in PACKAGES} | {"device": device.type, "dtype": str(dtype)}
    return digest(CODE_VERSION, asked, runtime, model_digest(base_model), {"ends": ends(tuned)}, tuned / "tokenizer.json", rows)


def keep(evaluation: Path, out: Path) -> None:
    """Writes the base model's part of an evaluation's folder, which has one, to the new folder `out`."""
    table = pl.read_parquet(evaluation / "examples.parquet")
    report = json.loads((evaluation / "evaluation.json").read_text("utf-8"))
    out.mkdir()
    table.select(name for name in table.columns if name.startswith("base_")).write_parquet(out / COLUMNS)
    facts = {"cost": report["costs"]["base"], "benchmarks": report["benchmarks"].get("base", [])}
    (out / FACTS).write_text(json.dumps(facts), "utf-8")


def known(folder: Path) -> tuple[dict[str, pl.Series], Cost, list[BenchmarkFigure]]:
    """The columns `base_...`, in the order of the sampled rows, what they cost when they were made, and the base's benchmarks."""
    try:
        table = pl.read_parquet(folder / COLUMNS)
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        benchmarks = [BenchmarkFigure.model_validate(item) for item in facts["benchmarks"]]
        return {column.name: column for column in table.iter_columns()}, Cost.model_validate(facts["cost"]), benchmarks
    except (OSError, ValueError, KeyError, pl.exceptions.PolarsError):
        raise StorageError("The kept answers of the base model cannot be read") from None
