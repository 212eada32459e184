"""What a training run ends with. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llm_platform.specs.base import Resource

MOST_POINTS = 500


class TrainingResult(Resource):
    """Figures of a finished training run."""

    steps: int
    epochs: float
    final_loss: float
    """Mean training loss of the last `TAIL` steps, in nats per trained token: one step's loss depends on its rows."""
    validation_loss: float | None
    """Of the weights that are kept; None if there are no validation rows."""
    trainable_parameters: int
    total_parameters: int
    tokens: int
    """Tokens seen, padding not counted."""
    seconds: float
    """Spent in training and validation, over all attempts whose work was kept."""
    tokens_per_second: float
    """While training, validation not counted."""
    peak_memory_mb: float
    """Of this process on the CPU, of the device's tensors on a GPU."""
    resumed_from: int | None
    """Step of the checkpoint that this run went on from."""
    kept_step: int
    """Step whose weights are the result: the last, or with `keep: best` the one with the lowest validation loss."""
    stopped_early: bool
    """By `early_stopping_patience`."""
    stopped_on_request: bool = False
    """Whether the run was asked to stop and keep what it had."""
    losses: list[tuple[int, float]]
    validation_losses: list[tuple[int, float]]
    device: str
    versions: dict[str, str]


@dataclass
class Curve:
    """(step, value) points, at most `MOST_POINTS`: every `stride`-th step, the stride doubling when they get too many."""

    points: list[tuple[int, float]] = field(default_factory=list)
    stride: int = 1

    def add(self, step: int, value: float) -> None:
        if (step - 1) % self.stride:
            return
        self.points.append((step, value))
        if len(self.points) >= MOST_POINTS:
            self.stride *= 2
            self.points = [point for point in self.points if (point[0] - 1) % self.stride == 0]

    def up_to(self, step: int, value: float) -> list[tuple[int, float]]:
        """The points, with the last step's in any case."""
        return self.points if self.points and self.points[-1][0] == step else [*self.points, (step, value)]
