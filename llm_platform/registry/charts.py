"""The pictures of a model card, drawn from what the registry knows: PNG, since that is what every reader of Markdown shows."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_platform.registry.models import RegisteredModel
from llm_platform.specs.comparison import Comparison

if TYPE_CHECKING:
    from llm_platform.registry.registry import Registry

COMPARISON_TAG = "comparison"
"""The newest comparison that the model took part in, as JSON: its `metric`, `comparison` of that metric alone, and `promotion`."""
MOST_BYTES = 150_000
"""Of one picture; a card is a text that people mail and commit."""
MOST_POINTS = 500

_BLUE, _GREY = "#3b6fb6", "#98a2b3"


@dataclass(frozen=True)
class Charts:
    """PNG bytes; None where there is nothing to show."""

    loss: bytes | None = None
    scores: bytes | None = None
    comparison: bytes | None = None


def charts_of(model: RegisteredModel, registry: Registry) -> Charts:
    """The loss curve, the tuned model beside its base, and the models of the newest comparison."""
    return Charts(
        loss=_bounded(_loss_png(registry.curve(model, "loss"), registry.curve(model, "validation_loss"))),
        scores=_bounded(_scores_png(model)),
        comparison=_bounded(_comparison_png(model)),
    )


def shares(model: RegisteredModel) -> list[str]:
    """The metrics from 0 to 1 of which both the model's and its base's are known, with intervals."""
    known = [name for name in model.intervals if f"base_{name}" in model.intervals and {name, f"base_{name}"} <= model.metrics.keys()]
    return sorted(name for name in known if max(model.intervals[name].high, model.intervals[f"base_{name}"].high) <= 1)


def _loss_png(training: Sequence[tuple[int, float]], validation: Sequence[tuple[int, float]]) -> bytes | None:
    if len(training) < 2:
        return None
    figure, axes = _figure(5.5, 3)
    stride = -(-len(training) // MOST_POINTS)
    points = [*training[::stride], *([training[-1]] if (len(training) - 1) % stride else [])]
    axes.plot(*zip(*points, strict=True), linewidth=1, color=_BLUE, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), marker="o", markersize=3, color="#c2410c", label="validation")
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("loss (nats per token)", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _png(figure)


def _scores_png(model: RegisteredModel) -> bytes | None:
    names = shares(model)
    if not names:
        return None
    figure, axes = _figure(5.5, 0.9 + 0.45 * len(names))
    for place, name in enumerate(names):
        for key, color, shift in ((f"base_{name}", _GREY, 0.15), (name, _BLUE, -0.15)):
            bound = model.intervals[key]
            axes.plot([bound.low, bound.high], [place + shift] * 2, color=color, linewidth=3, alpha=0.6)
            axes.plot(model.metrics[key], place + shift, "o", color=color, label=("base" if shift > 0 else "tuned") if not place else None)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xlim(-0.02, 1.02)
    axes.invert_yaxis()
    axes.margins(y=0.3)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    return _png(figure)


def _comparison_png(model: RegisteredModel) -> bytes | None:
    from llm_platform.evaluation.charts import comparison_png

    if COMPARISON_TAG not in model.tags:
        return None
    kept = json.loads(model.tags[COMPARISON_TAG])
    return comparison_png(Comparison.model_validate(kept["comparison"]), kept["metric"])


def _figure(width: float, height: float) -> tuple[Any, Any]:
    # Half a second, and only a card with charts needs it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _png(figure: Any) -> bytes:
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _bounded(picture: bytes | None) -> bytes | None:
    return picture if picture is None or len(picture) <= MOST_BYTES else None
