"""The loss curve of a training run as a picture. Needs no torch."""

from __future__ import annotations

import io

from llm_platform.training.result import TrainingResult


def loss_png(result: TrainingResult) -> bytes:
    """The loss curve as a PNG of 800 x 450 pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*result.losses, strict=True), linewidth=1, label="training")
    if result.validation_losses:
        axes.plot(*zip(*result.validation_losses, strict=True), marker="o", label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
