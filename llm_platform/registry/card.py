"""The model card: Hugging Face's format, written from what MLflow knows about the model and nothing else."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from llm_platform.registry import card_code
from llm_platform.registry.charts import COMPARISON_TAG, Charts
from llm_platform.registry.lineage import BASE_FILES_TAG, REGISTERED_TAG, head, lineage
from llm_platform.registry.models import RegisteredModel
from llm_platform.registry.records import PREFIX, describe
from llm_platform.specs.comparison import Comparison, Interval, Promotion

if TYPE_CHECKING:
    from huggingface_hub import EvalResult
    from jinja2 import Template

LICENSE_TAG = "base_license"
FUNNEL_TAG = "preprocessing_funnel"
"""JSON object of row counts by step, in order."""
PREPROCESSING_TAG = "preprocessing"
"""The preprocessing config, as JSON."""
CONTAMINATION_TAG = "contamination"
"""How many test prompts have something in common with training prompts: `data.contamination.Contamination` as JSON."""
TRAINING_TAG = "training"
"""How training went, as JSON: a `TrainingResult` without its curves."""
STOPPED_TAG = "stopped_early"
"""Where training was ended, of a model that was kept from a job that was stopped."""

_SHOWN_ELSEWHERE = {
    *(LICENSE_TAG, FUNNEL_TAG, PREPROCESSING_TAG, CONTAMINATION_TAG, TRAINING_TAG, STOPPED_TAG),
    *(COMPARISON_TAG, BASE_FILES_TAG, REGISTERED_TAG),
}
_ADAPTER_METHODS = ("lora", "qlora")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_BASE_METRIC = "base_"
_EVALUATION = ("accuracy", "f1", "exact_match", "rouge_l", "numeric_match", "label_accuracy", "macro_f1", "perplexity", "loss")
_PREPROCESSING = ("template", "system_prompt", "train_on", "max_length", "truncation", "clean", "dedup", "near_dedup", "split", "seed")
_BLANK_LINES = re.compile(r"\n{3,}")
_MARKDOWN = re.compile(r"([\\`*\[\]#|<>~$&]|(?<![^\W_])_|_(?![^\W_]))")
"""What means something in the middle of a line; an underscore within a word does not."""


def card(model: RegisteredModel, charts: Charts | None = None) -> str:
    """The card as Markdown, its YAML metadata first, its charts (`charts.charts_of`) within it."""
    tuned = {name: value for name, value in model.metrics.items() if not name.startswith(_BASE_METRIC)}
    base = {name.removeprefix(_BASE_METRIC): value for name, value in model.metrics.items() if name.startswith(_BASE_METRIC)}
    names = sorted(tuned | base, key=lambda name: (_EVALUATION.index(name) if name in _EVALUATION else len(_EVALUATION), name))
    method = model.training_config.get("method")
    adapter = method is None or method in _ADAPTER_METHODS
    license = model.tags.get(LICENSE_TAG)
    links = lineage(model)
    prepared = _json(model, PREPROCESSING_TAG)
    own = describe({PREFIX + name: getattr(model, name) for name in ("base_model", "run_id", "agent_name")})
    text = _template().render(
        model=model,
        metadata=_metadata(model, license, adapter, [name for name in names if name in _EVALUATION]),
        method=method,
        adapter=adapter,
        license=license,
        description="" if model.description == own else model.description,
        stopped=model.tags.get(STOPPED_TAG),
        digests={name: value for name, value in sorted(model.tags.items()) if name not in _SHOWN_ELSEWHERE},
        funnel={str(step): int(rows) for step, rows in _json(model, FUNNEL_TAG).items()},
        prepared={name: _value(prepared[name]) for name in _PREPROCESSING if prepared.get(name) is not None},
        contamination=_json(model, CONTAMINATION_TAG),
        config={name: _value(value) for name, value in model.training_config.items()},
        training=_json(model, TRAINING_TAG),
        figures=[
            {
                "name": name,
                "base": _figure(base.get(name), model.intervals.get(_BASE_METRIC + name)),
                "tuned": _figure(tuned.get(name), model.intervals.get(name)),
                "count": _count(model, name),
            }
            for name in names
        ],
        with_intervals=bool(model.intervals),
        with_base=bool(base),
        evaluated=any(name in tuned for name in _EVALUATION),
        comparison=_comparison(model),
        links=links,
        chain=head(links),
        charts={name: _picture(getattr(charts, name)) for name in ("loss", "scores", "comparison") if charts and getattr(charts, name)},
        adapter_code=card_code.adapter_code(model),
        merged_code=card_code.merged_code(),
        mlflow_code=card_code.mlflow_code(model),
        gguf_code=card_code.gguf_code(model),
    )
    return _BLANK_LINES.sub("\n\n", text)


def _metadata(model: RegisteredModel, license: str | None, adapter: bool, metrics: Sequence[str]) -> str:
    """The YAML block. What is not known is left out."""
    # 50 ms, and only the card needs it.
    from huggingface_hub import ModelCardData

    results = [_result(model, name) for name in metrics if name in model.metrics]
    base = model.base_model if _HUB_ID.fullmatch(model.base_model) else None
    data = ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if adapter else "finetune") if base else None,
        library_name="peft" if adapter else "transformers",
        license=license,
        metrics=list(metrics) or None,
        model_name=model.model_name if results else None,
        eval_results=results or None,
        pipeline_tag="text-generation",
        tags=["llm-platform", "fine-tuned", *([str(model.training_config["method"])] if "method" in model.training_config else [])],
    )
    return f"---\n{data.to_yaml()}\n---"


def _result(model: RegisteredModel, name: str) -> EvalResult:
    from huggingface_hub import EvalResult

    interval = model.intervals.get(name)
    bounds = {"interval_95": [interval.low, interval.high], "rows": interval.count} if interval else None
    # Private data has no id on the hub; the hub's own word for that is "custom".
    return EvalResult("text-generation", "custom", "held-out rows", name, model.metrics[name], metric_args=bounds)


def _comparison(model: RegisteredModel) -> dict[str, Any] | None:
    """The newest comparison: each model's figure, its difference to the baseline, and what the gate decided."""
    kept = _json(model, COMPARISON_TAG)
    if not kept:
        return None
    comparison, metric = Comparison.model_validate(kept["comparison"]), kept["metric"]
    differences = {item.model_id: item for item in comparison.differences}
    rows = []
    for item in comparison.models:
        other = differences.get(item.model_id)
        gain = _figure(other.differences.get(metric), other.intervals.get(metric)) if other else "baseline"
        flips = "" if other is None or other.to_right is None else f"{other.to_right} right, {other.to_wrong} wrong"
        figure = _figure(item.metrics.get(metric), item.intervals.get(metric))
        rows.append({"model_id": item.model_id, "figure": figure, "gain": gain, "flips": flips})
    promotion = Promotion.model_validate(kept["promotion"])
    return {"metric": metric, "examples": comparison.examples, "rows": rows, "promotion": promotion}


def _json(model: RegisteredModel, tag: str) -> dict[str, Any]:
    return json.loads(model.tags.get(tag, "{}"))


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _picture(png: bytes) -> str:
    """A picture as an address that holds it, so that the card is one file wherever it goes."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _figure(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" + (f" ({interval.low:.3g} to {interval.high:.3g})" if interval else "")


def _count(model: RegisteredModel, name: str) -> str:
    """The rows that a figure stands on; nothing for one that is not of rows."""
    interval = model.intervals.get(name) or model.intervals.get(_BASE_METRIC + name)
    return f"{interval.count:,}" if interval else ""


def _text(value: Any) -> str:
    """Text that Markdown and HTML take for nothing else, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(value).split()))


def _code(value: Any) -> str:
    """The same as inline code, with a fence that the text does not have; `|` would end a table's cell."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    ticks = "`" * (card_code.longest_ticks(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Not HTML: what goes into the text is escaped for Markdown by the filters.
    environment = Environment(loader=PackageLoader("llm_platform.registry", "."), undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"text": _text, "code": _code}
    return environment.get_template("card.md.jinja")
