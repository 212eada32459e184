"""Histograms of whole numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm_platform.specs.resources import HistogramBin

BINS = 20


def histogram(values: NDArray[np.int64]) -> list[HistogramBin]:
    """At most BINS bins of equal width over all values; there is at least one value."""
    low, high = int(values.min()), int(values.max())
    width = -(-(high - low + 1) // BINS)
    counts = np.bincount((values - low) // width)
    return [HistogramBin(low=low + n * width, high=low + (n + 1) * width - 1, count=count) for n, count in enumerate(counts.tolist())]
