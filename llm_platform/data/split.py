"""Splits without leaks: rows of one prompt, but for case and white space, are all on one side."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import polars as pl

from llm_platform.data.dedup import normalized
from llm_platform.errors import DatasetError
from llm_platform.specs import SplitConfig

SPLITS = ("train", "validation", "test")


def assign_splits(prompts: Sequence[str] | pl.Series, config: SplitConfig, seed: int) -> pl.Series:
    """The name of each row's split, in order: a String series of the prompts' length.

    The order of the groups is that of a hash keyed by the seed, so it is the same on every machine and independent of the
    order of the rows; test is filled first, then validation, and what is left is train. Every split whose share is above 0
    gets a row. Raises DatasetError if there are fewer different prompts than such splits.
    """
    keys = pl.DataFrame({"prompt": pl.Series(prompts, dtype=pl.String)}).select(normalized("prompt").alias("key"))["key"].to_list()
    sizes = Counter(keys)
    shares = {name: float(getattr(config, name)) for name in SPLITS if getattr(config, name) > 0}
    if len(sizes) < len(shares):
        raise DatasetError(
            f"A split into {', '.join(shares)} needs at least {len(shares)} rows with different prompts; there are {len(sizes)}",
            rows=len(keys),
            different_prompts=len(sizes),
            needed=len(shares),
        )
    secret = str(seed).encode()
    order = sorted(sizes, key=lambda key: hashlib.blake2b(key.encode("utf-8"), digest_size=16, key=secret).digest())
    room = {name: max(1, round(share * len(keys))) for name, share in reversed(shares.items()) if name != "train"}
    split: dict[str, str] = {}
    for key in order:
        # A prompt with more rows than there is room for goes to train, however early it comes.
        name = next((name for name, rows in room.items() if rows >= sizes[key]), "train")
        split[key] = name
        if name != "train":
            room[name] -= sizes[key]
    _fill(split, order, sizes, list(shares))
    return pl.Series("split", [split[key] for key in keys], dtype=pl.String)


def _fill(split: dict[str, str], order: list[str], sizes: Counter[str], needed: list[str]) -> None:
    """Gives every split a group, taken from the split that has the most: its smallest, and the first of those."""
    for name in needed:
        groups = Counter(split.values())
        if not groups[name]:
            richest = max(groups, key=lambda other: groups[other])
            moved = min((key for key in order if split[key] == richest), key=lambda key: sizes[key])
            split[moved] = name
