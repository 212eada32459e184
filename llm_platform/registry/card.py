"""The model card: Hugging Face's format, written from what MLflow knows about the model and nothing else."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from llm_platform.registry.models import RegisteredModel
from llm_platform.specs.comparison import Interval

if TYPE_CHECKING:
    from jinja2 import Template

LICENSE_TAG = "base_license"
FUNNEL_TAG = "preprocessing_funnel"
"""JSON object of row counts by step, in order."""

_ADAPTER_METHODS = ("lora", "qlora")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_OWN_BASE = "llm-platform/"
_BASE_METRIC = "base_"
_EVALUATION = ("accuracy", "f1", "exact_match", "rouge_l", "numeric_match", "label_accuracy", "macro_f1", "perplexity", "loss")
_BLANK_LINES = re.compile(r"\n{3,}")
_MARKDOWN = re.compile(r"([\\`*\[\]#|<>~$&]|(?<![^\W_])_|_(?![^\W_]))")
"""What means something in the middle of a line; an underscore within a word does not."""


def card(model: RegisteredModel) -> str:
    """The card as Markdown, its YAML metadata first."""
    tuned = {name: value for name, value in model.metrics.items() if not name.startswith(_BASE_METRIC)}
    base = {name.removeprefix(_BASE_METRIC): value for name, value in model.metrics.items() if name.startswith(_BASE_METRIC)}
    names = sorted(tuned | base, key=lambda name: (_EVALUATION.index(name) if name in _EVALUATION else len(_EVALUATION), name))
    method = model.training_config.get("method")
    adapter = method is None or method in _ADAPTER_METHODS
    license = model.tags.get(LICENSE_TAG)
    text = _template().render(
        model=model,
        metadata=_metadata(model, license, adapter, [name for name in names if name in _EVALUATION]),
        method=method,
        adapter=adapter,
        license=license,
        digests={name: value for name, value in sorted(model.tags.items()) if name not in (LICENSE_TAG, FUNNEL_TAG)},
        funnel=_funnel(model),
        config={name: value if isinstance(value, str) else json.dumps(value) for name, value in model.training_config.items()},
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
        adapter_code=_python(_ADAPTER_CODE, model),
        merged_code=_python(_MERGED_CODE, model),
    )
    return _BLANK_LINES.sub("\n\n", text)


_OWN_BASE_CODE = """\
from llm_platform.reporting import ConsoleReporter
from llm_platform.settings import Settings
from llm_platform.training.base_model import resolve

# This base model is not on the Hugging Face Hub: the platform builds it on your machine.
base = str(resolve({base}, Settings(), ConsoleReporter()))
"""

_ADAPTER_CODE = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

{find}tokenizer = AutoTokenizer.from_pretrained("./adapter")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "./adapter")
prompt = "..."
inputs = tokenizer(prompt, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""

_MERGED_CODE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("./merged")
model = AutoModelForCausalLM.from_pretrained("./merged")
prompt = "..."
inputs = tokenizer(prompt, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""


def _python(code: str, model: RegisteredModel) -> str:
    literal = json.dumps(model.base_model)
    find = _OWN_BASE_CODE.format(base=literal) if model.base_model.startswith(_OWN_BASE) else f"base = {literal}\n"
    code = code.format(find=find)
    fence = "`" * max(3, _longest_ticks(code) + 1)
    return f"{fence}python\n{code}{fence}"


def _metadata(model: RegisteredModel, license: str | None, adapter: bool, metrics: list[str]) -> str:
    """The YAML block. What is not known is left out."""
    # 50 ms, and only the card needs it.
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=model.base_model if _HUB_ID.fullmatch(model.base_model) else None,
        library_name="peft" if adapter else "transformers",
        license=license,
        metrics=metrics or None,
        pipeline_tag="text-generation",
        tags=["llm-platform", "fine-tuned", *([str(model.training_config["method"])] if "method" in model.training_config else [])],
    )
    return f"---\n{data.to_yaml()}\n---"


def _funnel(model: RegisteredModel) -> dict[str, int]:
    counts = json.loads(model.tags.get(FUNNEL_TAG, "{}"))
    return {str(step): int(rows) for step, rows in counts.items()}


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
    ticks = "`" * (_longest_ticks(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def _longest_ticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Not HTML: what goes into the text is escaped for Markdown by the filters.
    environment = Environment(loader=PackageLoader("llm_platform.registry", "."), undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"text": _text, "code": _code}
    return environment.get_template("card.md.jinja")
