"""Which rows stay, and which fall to an earlier one: equal but for case and white space, or nearly equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llm_platform.data.keys import Keys
from llm_platform.data.near import clusters
from llm_platform.specs import PreprocessingConfig


@dataclass(frozen=True)
class Kept:
    """Of N rows in the order in which they take precedence.

    `stands` has for each row the place of the one that stands for it, its own if it stays. `near` has the place of the first
    row that it is near to, equal ones included, whether such rows are dropped or only kept together; None if nobody asked.
    """

    stands: NDArray[np.int64]
    equal: NDArray[np.bool_]
    near: NDArray[np.int64] | None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which rows stay, [N]."""
        return self.stands == np.arange(len(self.stands))


def deduplicate(keys: Keys, config: PreprocessingConfig) -> Kept:
    """What is dropped by `dedup` and `near_dedup`; memory grows by some 100 bytes a row."""
    places = np.arange(len(keys))
    frame = pl.DataFrame({"place": places, "high": keys.content[:, 0], "low": keys.content[:, 1]})
    first = frame.select(pl.col("place").first().over("high", "low"))["place"].to_numpy()
    near = None
    if keys.bands.shape[1]:
        distinct = np.flatnonzero(first == places)
        of_distinct = np.empty(len(keys), dtype=np.int64)
        of_distinct[distinct] = clusters(keys.signatures, keys.bands, distinct, config.near_dedup_threshold)
        near = of_distinct[first]
    if config.near_dedup and near is not None:
        stands = near if config.dedup else np.where(first == places, near, places)
    else:
        stands = first if config.dedup else places
    return Kept(stands=stands, equal=first != places, near=near)
