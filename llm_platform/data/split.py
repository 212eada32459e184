"""Splits without leaks: rows of one prompt, of one group, and near-duplicates are all on one side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm_platform.data.keys import NONE, Keys
from llm_platform.data.near import components
from llm_platform.errors import DatasetError
from llm_platform.specs import SplitConfig

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
LEFT_OUT = 3
"""Instead of a split: the row is bound to one of a given split, and would leak."""


def assign_splits(
    keys: Keys, chosen: NDArray[np.int64], near: NDArray[np.int64] | None, given: NDArray[np.int8], config: SplitConfig, seed: int
) -> NDArray[np.int8]:
    """The split (an index of SPLITS, or LEFT_OUT) of each of the rows at `chosen`, [C].

    `near` has for all N rows the place of the first that they are near to; `given` [C] has the split of rows whose input is
    a split by itself, and -1 for the others. The order in which groups are dealt out is that of their texts' digests, mixed
    with the seed: it is the same on every machine and independent of the rows' order. Test is filled first, then validation;
    what is left is train. Each split with a share above 0 gets a row. Raises DatasetError if there are fewer groups than such splits.
    """
    groups = _groups(keys, chosen, near, config)
    shares = _shares(config)
    splits = given.copy()
    bound = np.full(len(chosen), -1, dtype=np.int8)
    np.maximum.at(bound, groups, given)  # test wins over validation, should a group have rows of both
    free = given < 0
    splits[free & (bound[groups] >= 0)] = LEFT_OUT
    free &= bound[groups] < 0
    heads, inverse, sizes = np.unique(groups[free], return_inverse=True, return_counts=True)
    if len(heads) < len(shares):
        raise _too_few(len(heads), int(free.sum()), shares, config)
    order = np.full(len(heads), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(order, inverse, keys.content[chosen[free], 0] ^ keys.content[chosen[free], 1])
    ranked = np.argsort(_mixed(order, seed), kind="stable")
    strata = keys.stratum[chosen[heads]] if config.stratify_by else np.full(len(heads), NONE)
    assigned = np.zeros(len(heads), dtype=np.int8)
    for stratum in np.unique(strata):
        _deal(assigned, ranked[strata[ranked] == stratum], sizes, shares)
    _fill(assigned, ranked, sizes, list(shares))
    splits[free] = assigned[inverse]
    return splits


def _groups(keys: Keys, chosen: NDArray[np.int64], near: NDArray[np.int64] | None, config: SplitConfig) -> NDArray[np.int64]:
    """For each row of `chosen` the index in it of the first row of its group."""
    bonds = [keys.prompt[chosen]]
    if config.group_by:
        bonds.append(keys.group[chosen])
    if near is not None and config.near_duplicates == "together":
        bonds.append(near[chosen].astype(np.uint64) + np.uint64(1))
    places = np.arange(len(chosen))
    one, other = [places], [places]
    for values in bonds:
        _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        bonded = values != NONE
        one.append(places[bonded])
        other.append(first[inverse][bonded])
    return components(np.concatenate(one), np.concatenate(other), len(chosen))


def _shares(config: SplitConfig) -> dict[int, float]:
    """The share of each split that rows are dealt to; those of given splits are spread over the others."""
    given = {VALIDATION: config.validation_inputs, TEST: config.test_inputs}
    shares = {number: float(getattr(config, name)) for number, name in enumerate(SPLITS) if not given.get(number)}
    total = sum(shares.values())
    return {number: share / total for number, share in shares.items() if share > 0}


def _mixed(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A permutation of the 64-bit numbers that depends on the seed: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    mixed = values + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _deal(assigned: NDArray[np.int8], order: NDArray[np.int64], sizes: NDArray[np.int64], shares: dict[int, float]) -> None:
    """Gives the groups of one stratum, in this order, to test and validation as long as there is room."""
    rows = int(sizes[order].sum())
    room = {number: round(shares[number] * rows) for number in (TEST, VALIDATION) if number in shares}
    for group, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        # A group with more rows than there is room for goes to train, however early it comes.
        number = next((number for number, left in room.items() if left >= size), TRAIN)
        if number != TRAIN:
            assigned[group] = number
            room[number] -= size


def _fill(assigned: NDArray[np.int8], order: NDArray[np.int64], sizes: NDArray[np.int64], needed: list[int]) -> None:
    """Gives every split a group, taken from the split that has the most: its smallest, and the first of those."""
    for number in needed:
        counts = np.bincount(assigned, minlength=len(SPLITS))
        if not counts[number]:
            donors = order[assigned[order] == counts.argmax()]
            assigned[donors[np.argmin(sizes[donors])]] = number


def _too_few(groups: int, rows: int, shares: dict[int, float], config: SplitConfig) -> DatasetError:
    names = ", ".join(SPLITS[number] for number in shares)
    kinds = ["different prompts"]
    if config.group_by:
        kinds.append(f"different values of '{config.group_by}' (group_by)")
    if config.near_duplicates == "together":
        kinds.append("texts that are not near-duplicates (near_duplicates)")
    return DatasetError(
        f"A split into {names} needs at least {len(shares)} rows with {' and '.join(kinds)}; there are {groups}",
        rows=rows,
        different_prompts=groups,
        needed=len(shares),
    )
