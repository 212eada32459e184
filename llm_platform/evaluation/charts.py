"""A comparison as a picture. Needs no torch."""

from __future__ import annotations

import io

from llm_platform.specs.agents import Metric
from llm_platform.specs.comparison import Comparison


def comparison_png(comparison: Comparison, metric: Metric) -> bytes:
    """The metric of each model, and its paired difference to the baseline, with 95% intervals, as a PNG of 1000 pixels' width."""
    from matplotlib.figure import Figure

    models = [model for model in comparison.models if metric in model.metrics]
    differences = [item for item in comparison.differences if metric in item.differences]
    figure = Figure(figsize=(10, 1.6 + 0.4 * len(models)), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, model in enumerate(models):
        bound = model.intervals[metric]
        left.plot([bound.low, bound.high], [place, place], color="#98a2b3", linewidth=3)
        left.plot(model.metrics[metric], place, "o", color="#3b6fb6")
    left.set_yticks(range(len(models)), [_plain(model.model_id) for model in models])
    left.set_title(f"{metric} on {comparison.examples:,} examples", fontsize=10, loc="left")
    for place, item in enumerate(differences):
        bound = item.intervals[metric]
        right.plot([bound.low, bound.high], [place, place], color="#98a2b3", linewidth=3)
        right.plot(item.differences[metric], place, "o", color="#3b6fb6")
    right.axvline(0, color="#667085", linewidth=1, linestyle="--")
    right.set_yticks(range(len(differences)), [_plain(item.model_id) for item in differences])
    right.set_title(f"difference to {_plain(comparison.baseline)}", fontsize=10, loc="left")
    for axes in (left, right):
        axes.invert_yaxis()
        axes.margins(y=0.4)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _plain(name: str) -> str:
    """Short enough for an axis, and no mathematics."""
    return (name if len(name) <= 36 else f"{name[:35]}…").replace("$", r"\$")
