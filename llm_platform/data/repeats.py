"""Which rows of a table hold what an earlier row holds, exactly, in memory that the table's length hardly matters to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from llm_platform.data.cells import collect

BUCKET_ROWS = 2_000_000
MOST_FIRSTS = 1_000_000


@dataclass(frozen=True)
class Repeats:
    """`mask` has a bit for each row: whether an earlier one is equal to it. `firsts` says, for the first MOST_FIRSTS such rows
    (`row`), which row is the first of its kind (`first`). Rows count from 0."""

    mask: pl.Series
    firsts: pl.DataFrame

    def first(self, before: int, count: int) -> pl.Series:
        """For `count` rows from `before` on: the first row of the kind, null where `firsts` does not say."""
        rows = pl.DataFrame({"row": pl.int_range(before, before + count, dtype=pl.Int64, eager=True)})
        return rows.join(self.firsts, on="row", how="left", maintain_order="left")["first"]


def find_repeats(frame: pl.LazyFrame, keys: Mapping[str, pl.Expr], rows: int, scratch: Path) -> Iterator[tuple[str, Repeats]]:
    """The repeats in each of `keys`, expressions of one value a row, over the `rows` rows of `frame`. Null equals null.

    Values are compared by 128 bits of hash (two of 64 bits with seeds of their own): among 10^9 different values, two of one hash are
    expected once in 10^20 tables. The hashes lie in a file in the folder `scratch`, 16 bytes a row and key, and are
    compared in buckets of about BUCKET_ROWS.
    """
    path = scratch / "hashes.parquet"
    hashes = [key.hash(seed).alias(f"{name}.{seed}") for name, key in keys.items() for seed in (1, 2)]
    frame.select(hashes).sink_parquet(path, compression="uncompressed")
    for name in keys:
        yield name, _repeats(pl.scan_parquet(path).select(a=f"{name}.1", b=f"{name}.2"), rows)
    path.unlink()


def _repeats(hashes: pl.LazyFrame, rows: int) -> Repeats:
    mask = np.zeros(rows, dtype=np.bool_)
    firsts = pl.DataFrame(schema={"row": pl.Int64, "first": pl.Int64})
    buckets = -(-rows // BUCKET_ROWS)
    numbered = hashes.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    for bucket in range(buckets):
        part = collect(numbered.filter(pl.col("a") % buckets == bucket)) if buckets > 1 else collect(numbered)
        # Few hashes occur twice, so the rest is done with before both halves are compared.
        part = part.filter(pl.col("a").is_duplicated()).with_columns(first=pl.col("row").min().over("a", "b"))
        part = part.filter(pl.col("row") != pl.col("first")).select("row", "first")
        mask[part["row"].to_numpy()] = True
        firsts = pl.concat([firsts, part]).sort("row").head(MOST_FIRSTS)
    return Repeats(pl.Series(mask), firsts)
