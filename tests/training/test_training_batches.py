"""Batches hold every row once, depend on (seed, epoch) alone, waste little, and mask what they must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llm_platform.errors import DatasetError
from llm_platform.training.batches import Schedule, collate, epoch_batches, pack
from llm_platform.training.rows import Rows, check_rows, read_rows
from tests.tiny_models import EOS, make_rows, write_split

CPU = torch.device("cpu")


def lengths(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(5, 300, count)


@pytest.mark.parametrize(("count", "size"), [(1, 8), (7, 8), (1000, 8), (1001, 3)])
def test_every_row_once_and_the_largest_batch_first(count: int, size: int) -> None:
    found = epoch_batches(lengths(count), size, seed=1, epoch=0)
    assert sorted(np.concatenate(found)) == list(range(count))
    areas = [len(batch) * lengths(count)[batch].max() for batch in found]
    assert areas[0] == max(areas)
    assert all(len(batch) <= size for batch in found)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        np.random.seed(0)  # must not matter
        return np.concatenate(epoch_batches(lengths(100), 8, seed, epoch)).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_little_is_padding() -> None:
    sizes = lengths(4000)
    padded = sum(len(batch) * sizes[batch].max() for batch in epoch_batches(sizes, 8, 1, 0))
    assert padded / sizes.sum() < 1.03


def test_steps_take_whole_epochs() -> None:
    schedule = Schedule(lengths(50), batch_size=4, accumulation=3, seed=1)
    steps = schedule.epoch(2)
    assert [len(step) for step in steps] == [3, 3, 3, 3, 1]
    assert schedule.steps_per_epoch == len(steps)


def test_labels_are_exactly_the_completion_and_its_eos(splits: Path) -> None:
    rows = read_rows(splits / "train.parquet")
    source = {row["row"]: row for row in make_rows(40, 1, 100)}
    indices = np.array([3, 17, 8])
    batch = collate(rows, indices, CPU)
    width = batch.input_ids.shape[1]
    found: dict[int, list[int]] = {}
    for position, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True):
        place, column = divmod(position, width)
        expected = source[int(rows.row[indices[place]])]["input_ids"]
        assert batch.input_ids[place, : column + 1].tolist() == expected[: column + 1]
        assert target == expected[column + 1]
        found.setdefault(place, []).append(target)
    for place, targets in found.items():
        row = source[int(rows.row[indices[place]])]
        assert targets == [token for token, trained in zip(row["input_ids"], row["loss_mask"], strict=True) if trained]
        assert targets[-1] == EOS
    assert batch.tokens == int(rows.lengths[indices].sum())


def test_packed_labels_are_those_of_each_row_alone(tmp_path: Path) -> None:
    made = make_rows(6, 3)
    for row in made[2:4]:
        row["loss_mask"] = [True] * len(row["loss_mask"])  # their first token has nothing before it that could predict it
    rows = read_rows(write_split(tmp_path / "x.parquet", made))
    indices = np.array([5, 2, 0, 3])
    batch = pack(rows, indices, CPU)
    assert batch.position_ids is not None
    ids, places = batch.input_ids[0].tolist(), batch.position_ids[0].tolist()
    found = [
        (ids[position - places[position] : position + 1], target)
        for position, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True)
    ]
    expected = [
        (row["input_ids"][:place], row["input_ids"][place])
        for row in (made[index] for index in indices)
        for place in range(1, len(row["input_ids"]))
        if row["loss_mask"][place]
    ]
    assert found == expected, "what each trained token is predicted from, and the token"
    assert len(found) == int(rows.labels[indices].sum())


def test_rows_survive_the_file(tmp_path: Path) -> None:
    made = make_rows(5, 9)
    rows = read_rows(write_split(tmp_path / "x.parquet", made))
    assert [rows.tokens(index).tolist() for index in range(5)] == [row["input_ids"] for row in made]
    assert rows.labels.tolist() == [3] * 5
    part = rows.take(np.array([4, 1]))
    assert part.tokens(0).tolist() == made[4]["input_ids"] and part.numbers([0, 1]) == [4, 1]
    assert part.prompt(1).tolist() == made[1]["input_ids"][:-3]


def test_an_empty_split_has_no_rows(tmp_path: Path) -> None:
    assert len(read_rows(write_split(tmp_path / "x.parquet", []))) == 0


def check(tmp_path: Path, rows: list[dict[str, object]], context: int | None = None) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        check_rows(read_rows(write_split(tmp_path / "x.parquet", rows)), "training", vocabulary=256, context=context)
    return caught.value


def test_rows_that_cannot_be_trained_on_are_named(tmp_path: Path) -> None:
    rows = make_rows(6, 1, first=40)
    rows[2]["loss_mask"] = [False] * len(rows[2]["loss_mask"])
    rows[4]["loss_mask"] = [True] + [False] * (len(rows[4]["loss_mask"]) - 1)
    error = check(tmp_path, rows)
    assert error.metadata["rows"] == [42, 44] and "rows 42, 44" in error.message


def test_tokens_of_another_model_are_refused(tmp_path: Path) -> None:
    rows = make_rows(2, 1)
    rows[1]["input_ids"][3] = 256
    assert "another model" in check(tmp_path, rows).message


def test_rows_beyond_the_context_are_named(tmp_path: Path) -> None:
    assert "max_length in preprocessing to 8" in check(tmp_path, make_rows(20, 1), context=8).message


def test_a_file_that_is_no_split_is_a_dataset_error(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text("no")
    for name in ("train.parquet", "missing.parquet"):
        with pytest.raises(DatasetError) as caught:
            read_rows(tmp_path / name)
        assert str(tmp_path) not in caught.value.message


def test_rows_is_what_it_says() -> None:
    rows = Rows(np.array([5]), np.array([1, 2], np.int32), np.array([True, True]), np.array([0, 2]))
    assert rows.labels.tolist() == [1]
