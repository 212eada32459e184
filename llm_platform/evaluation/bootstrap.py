"""How far a figure can be trusted: percentile bootstrap over rows.

Every figure here follows from sums over rows (a mean from a sum and a count, perplexity from nats and tokens, macro F1 from hits per
label), so a resample is one vector of weights, and all figures of all models share the same resamples: differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_platform.specs.comparison import Interval

RESAMPLES = 2000
COVERAGE = 0.95
_CELLS = 4_000_000
"""Most weights in memory at once: 32 MB."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure of N rows: `value` makes sums [..., C] of `columns` [N, C] into figures [...]; it stands on `count` of the rows."""

    columns: Array
    value: Callable[[Array], Any]
    count: int

    @classmethod
    def mean(cls, values: Array) -> Figure:
        """The mean of values [N]; rows without one are NaN and do not count."""
        known = ~np.isnan(values)
        columns = np.stack([np.where(known, values, 0.0), known.astype(np.float64)], axis=1)
        return cls(columns, _ratio, int(known.sum()))

    @property
    def measured(self) -> float:
        """The figure of the rows themselves."""
        return float(self.value(self.columns.sum(axis=0)))

    def minus(self, other: Figure) -> Figure:
        """The difference of two figures of the same rows, row by row the same resamples."""
        width = self.columns.shape[1]
        return Figure(
            np.concatenate([self.columns, other.columns], axis=1),
            lambda sums: self.value(sums[..., :width]) - other.value(sums[..., width:]),
            min(self.count, other.count),
        )


def intervals(figures: Mapping[str, Figure], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """The 95% interval of each figure; all are of the same rows. The same seed and rows give the same intervals."""
    if not figures:
        return {}
    sums = resampled_sums(np.concatenate([figure.columns for figure in figures.values()], axis=1), resamples, seed)
    found: dict[str, Interval] = {}
    first = 0
    tails = [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]
    for name, figure in figures.items():
        width = figure.columns.shape[1]
        values = np.asarray(figure.value(sums[:, first : first + width]))
        first += width
        # A resample can lack every row that a figure stands on.
        low, high = np.quantile(values[np.isfinite(values)], tails)
        found[name] = Interval(low=float(low), high=float(high), count=figure.count)
    return found


def resampled_sums(columns: Array, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Sums [B, C] of columns [N, C] over B samples of N rows drawn with replacement."""
    rows = len(columns)
    random = np.random.default_rng(seed)
    step = max(1, _CELLS // rows)
    parts: list[Array] = []
    for start in range(0, resamples, step):
        many = min(step, resamples - start)
        drawn = random.integers(0, rows, size=(many, rows)) + np.arange(many)[:, None] * rows
        weights = np.bincount(drawn.ravel(), minlength=many * rows).reshape(many, rows)
        parts.append(weights.astype(np.float64) @ columns)
    return np.concatenate(parts)


def _ratio(sums: Array) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]
