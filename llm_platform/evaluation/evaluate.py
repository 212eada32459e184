"""How good a trained model is, beside its base model: `evaluate(config, base_model, tuned, rows, out, reporter)`.

Both are scored on the same rows: an adapter by switching it off, a whole model by loading its base after it. Answers come from
greedy generation; loss and perplexity from the reference answers. An adapter that was trained on a base in 4 bits is measured on
the base's own weights: that is what is merged and exported, and where the model card's code puts it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from llm_platform.errors import DatasetError, TrainingError
from llm_platform.evaluation import base_cache
from llm_platform.evaluation.benchmarks import BenchmarkFigure, Benchmarks, run_benchmarks, tasks_of, tokenizer_of
from llm_platform.evaluation.bootstrap import intervals
from llm_platform.evaluation.drafts import finish, losses_and_drafts
from llm_platform.evaluation.figures import GENERATED, columns_of, confusion_of, figures_of
from llm_platform.evaluation.generate import greedy
from llm_platform.reporting import Reporter
from llm_platform.specs import EvaluationConfig
from llm_platform.specs.base import Resource
from llm_platform.specs.comparison import Confusion, Cost, Interval
from llm_platform.training.adapter import causal_model, check_base, ends, is_adapter, load_adapter, training_record
from llm_platform.training.base_model import load
from llm_platform.training.device import peak_memory_mb, pick_device
from llm_platform.training.folders import whole_folder
from llm_platform.training.loss import row_losses
from llm_platform.training.rows import Rows, check_rows, read_rows

EXAMPLES = 5
TAIL = 400
"""Characters of a prompt that an example shows."""


class EvaluationResult(Resource):
    """Figures by name: those of `EvaluationConfig.metrics` that the references allow, `count`, and, where answers were generated,
    `eos_rate`.

    All but `loss` and `perplexity` are between 0 and 1, `eos_rate` is the share of answers that the model itself ended; `loss` is in
    nats per token of the completions, `perplexity` its exponential. `intervals`, `confusion` and `costs` are by `tuned` and `base`.
    `base_reused` says that the base model's answers and losses are those of an earlier evaluation of the same rows with the same
    settings; its cost is what it cost then. `benchmarks`, by `tuned` and `base` too, are among the figures as `<task>.<metric>`.
    """

    tuned: dict[str, float]
    base: dict[str, float] | None
    base_reused: bool = False
    intervals: dict[str, dict[str, Interval]]
    confusion: dict[str, Confusion]
    costs: dict[str, Cost]
    benchmarks: dict[str, list[BenchmarkFigure]] = {}
    samples: int
    seconds: float
    examples: list[dict[str, str]]


def evaluate(
    config: EvaluationConfig,
    base_model: Path,
    tuned: Path | None,
    rows: Path,
    out: Path,
    reporter: Reporter,
    threads: int = 0,
    known_base: Path | None = None,
    benchmark_tasks: Path | None = None,
) -> EvaluationResult:
    """Scores on the rows of a split file; writes `examples.parquet` and `evaluation.json` to the folder `out`, whole or not at all.

    `tuned` is an adapter's folder or a whole model's; without one the base model itself is scored. `known_base` is a folder that
    `base_cache.keep` made of an evaluation with the same `base_cache.base_key`: then the base model is not asked again.
    `benchmark_tasks` is the folder of the operator's own benchmarks.
    Raises DatasetError, InvalidConfig, TrainingError, or Cancelled.
    """
    started = time.perf_counter()
    device, dtype = pick_device(threads)
    sample, table = _sample(rows, config.max_samples)
    if tuned is not None:
        check_base(tuned, base_model)
    scored = tuned or base_model
    stops = ends(scored)
    tokenizer = Tokenizer.from_file(str(scored / "tokenizer.json"))
    reporter.info(f"Evaluating on {len(sample):,} rows on {device.type}")
    benchmarks = Benchmarks(tuple(config.benchmarks), benchmark_tasks)
    tasks = tasks_of(benchmarks) if benchmarks.names else None
    record = training_record(scored)
    if record is not None and record.get("quantization"):
        reporter.info("Trained on the base in 4 bits; measured on the base's own weights, as the adapter is merged and exported")

    table = table.with_columns(tokens=pl.Series(sample.labels))
    figures: dict[str, dict[str, float]] = {}
    bounds: dict[str, dict[str, Interval]] = {}
    costs: dict[str, Cost] = {}
    standard: dict[str, list[BenchmarkFigure]] = {}
    ask_base = config.include_base and known_base is None
    for name, model in _models(base_model, tuned, device, dtype, with_base=ask_base):
        context = getattr(model.config, "max_position_embeddings", None)
        check_rows(sample, "evaluation", vocabulary=model.config.vocab_size, context=context)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        table = table.with_columns(**_score(config, model, sample, table, tokenizer, stops, name, reporter))
        costs[name] = _cost(model, name, device, time.perf_counter() - began)
        if tasks is not None:
            reporter.info(f"Running {len(benchmarks.names)} standard benchmarks on the {name} model")
            asked = tokenizer_of(scored, stops)
            what = f"benchmarks of the {name} model"
            standard[name] = run_benchmarks(benchmarks, tasks, model, asked, config.max_samples, config.batch_size, reporter, what)
        del model  # so that the next one finds its memory free
        figures[name], bounds[name] = _followed(config, table, name, standard.get(name, []), reporter)
    reused = config.include_base and known_base is not None
    if known_base is not None and reused:
        columns, costs["base"], standard["base"] = base_cache.known(known_base)
        table = table.with_columns(**columns)
        reporter.info("The same base model was asked the same rows in the same way before; its answers are used")
        figures["base"], bounds["base"] = _followed(config, table, "base", standard["base"], reporter)
    result = EvaluationResult(
        tuned=figures["tuned"],
        base=figures.get("base"),
        base_reused=reused,
        intervals=bounds,
        confusion={name: confusion for name in figures if (confusion := confusion_of(table, name))},
        costs=costs,
        benchmarks=standard,
        samples=len(sample),
        seconds=time.perf_counter() - started,
        examples=_examples(table),
    )
    with whole_folder(out) as partial:
        table.write_parquet(partial / "examples.parquet")
        report = {"config": config.model_dump(mode="json"), **result.model_dump(mode="json")}
        (partial / "evaluation.json").write_text(json.dumps(report, indent=2), "utf-8")
    return result


def _followed(
    config: EvaluationConfig, table: pl.DataFrame, name: str, standard: list[BenchmarkFigure], reporter: Reporter
) -> tuple[dict[str, float], dict[str, Interval]]:
    """The figures of a model, those of standard benchmarks among them, and their intervals, told."""
    followed = figures_of(table, name, config.metrics)
    figures = {metric: figure.measured for metric, figure in followed.items()} | {"count": float(table.height)}
    _check_perplexity(figures)
    figures |= {item.name: item.value for item in standard}
    bounds = intervals(followed) | {item.name: item.interval for item in standard if item.interval}
    shown = ", ".join(_shown(metric, value, bounds.get(metric)) for metric, value in figures.items())
    reporter.info(f"{'Base model' if name == 'base' else 'Tuned model'}: {shown}", **figures)
    return figures, bounds


def _models(
    base_model: Path, tuned: Path | None, device: torch.device, dtype: torch.dtype, *, with_base: bool
) -> Iterator[tuple[str, PreTrainedModel]]:
    """What is scored, by name. Of two whole models the first is let go before the second is loaded."""
    adapter = tuned if tuned is not None and is_adapter(tuned) else None
    model: Any = load(base_model if adapter or tuned is None else tuned, dtype)
    if adapter:
        model = load_adapter(model, adapter)
    model.to(device)
    yield "tuned", causal_model(model)
    if not with_base or tuned is None:
        return
    if adapter:
        with model.disable_adapter():
            yield "base", causal_model(model)
    else:
        del model
        yield "base", load(base_model, dtype).to(device)  # type: ignore[arg-type]


def _sample(path: Path, most: int) -> tuple[Rows, pl.DataFrame]:
    """All rows, or `most` of them drawn with a fixed seed, in file order; with the columns row, prompt and reference."""
    rows = read_rows(path)
    if not len(rows):
        raise DatasetError(
            "There are no rows to evaluate on: the test split is empty. "
            "Give it a share in the preprocessing node's split, or name a dataset_id in the evaluation node"
        )
    chosen = np.arange(len(rows))
    if len(rows) > most:
        chosen = np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))
    columns = [pl.col("row"), pl.col("prompt"), pl.col("completion").alias("reference")]
    try:
        table = pl.read_parquet(path, columns=["row", "prompt", "completion"]).select(columns)[chosen]
    except pl.exceptions.PolarsError as error:
        raise DatasetError(f"The split {path.name} lacks one of the columns row, prompt and completion") from error
    return rows.take(chosen), table


def _score(
    config: EvaluationConfig,
    model: PreTrainedModel,
    rows: Rows,
    table: pl.DataFrame,
    tokenizer: Tokenizer,
    stops: Collection[int],
    name: str,
    reporter: Reporter,
) -> dict[str, pl.Series]:
    """The columns that the asked figures follow from."""
    columns: dict[str, pl.Series] = {}
    asked: Any = {"ends": set(stops), "max_new_tokens": config.max_new_tokens, "batch_size": config.batch_size, "reporter": reporter}
    answered, measured = bool(set(GENERATED) & set(config.metrics)), bool({"loss", "perplexity"} & set(config.metrics))
    what = f"answers of the {name} model"
    losses, answers = None, None
    if answered and measured:
        losses, drafts = losses_and_drafts(model, rows, **asked)
        answers = finish(model, rows, drafts, **asked, what=what)
    elif answered:
        answers = greedy(model, [rows.prompt(index) for index in range(len(rows))], **asked, what=what)
    else:
        losses = row_losses(model, rows, config.batch_size, model.device, model.dtype, reporter)
    if answers is not None:
        texts = [tokenizer.decode(answer.ids, skip_special_tokens=True).strip() for answer in answers]
        columns = columns_of(texts, [answer.stopped for answer in answers], table["reference"].to_list(), name)
    if losses is not None:
        columns[f"{name}_loss"] = pl.Series(losses)
    return columns


def _cost(model: PreTrainedModel, name: str, device: torch.device, seconds: float) -> Cost:
    """Of a base model that is scored with its adapter switched off, the adapter's weights are not counted."""
    adapter = [weight for key, weight in model.named_parameters() if ".lora_" in key]
    weights = [weight for key, weight in model.named_parameters() if name == "tuned" or ".lora_" not in key]
    return Cost(
        parameters=sum(weight.numel() for weight in weights),
        adapter_parameters=sum(weight.numel() for weight in adapter) if adapter and name == "tuned" else None,
        weights_mb=sum(weight.nbytes for weight in weights) / 2**20,
        peak_memory_mb=peak_memory_mb(device) if device.type == "cuda" else None,
        scoring_seconds=seconds,
    )


def _check_perplexity(figures: dict[str, float]) -> None:
    if not math.isfinite(figures.get("perplexity", 0.0)):
        raise TrainingError("The loss is too high for a perplexity; the model's weights are broken")


def _shown(metric: str, value: float, interval: Interval | None) -> str:
    return f"{metric} {value:.4g}" + (f" ({interval.low:.3g} to {interval.high:.3g})" if interval else "")


def _examples(table: pl.DataFrame) -> list[dict[str, str]]:
    """The first rows, with the end of each prompt, which is where the question is."""
    answers = {"base": "base_answer", "tuned": "tuned_answer"}
    shown = {"prompt": "prompt", "reference": "reference", **{name: column for name, column in answers.items() if column in table.columns}}
    rows = table.head(EXAMPLES).select(**{name: pl.col(column) for name, column in shown.items()}).to_dicts()
    return [{**row, "prompt": row["prompt"][-TAIL:]} for row in rows]
