"""Splits are read as they are, quickly, and refused where they are not what a split is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from llm_platform.errors import DatasetError
from llm_platform.training.rows import read_rows
from tests.tiny_models import make_rows, write_split


def test_what_was_written_is_read(tmp_path: Path) -> None:
    made = make_rows(23, 1, 100)
    rows = read_rows(write_split(tmp_path / "x.parquet", made))
    assert [rows.tokens(index).tolist() for index in range(23)] == [row["input_ids"] for row in made]
    assert [rows.trained(index).tolist() for index in range(23)] == [row["loss_mask"] for row in made]
    assert rows.numbers(range(23)) == [row["row"] for row in made]
    assert (rows.ids.dtype, rows.mask.dtype, rows.row.dtype) == (np.int32, np.bool_, np.int64)
    assert len(read_rows(write_split(tmp_path / "empty.parquet", []))) == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"input_ids": ["a", "b"]},
        {"input_ids": [["a"], ["b"]]},
        {"input_ids": [[1, None], [2, 3]]},
        {"loss_mask": [[True, None], [True, True]]},
        {"row": ["a", "b"]},
        {"row": [1, None]},
    ],
    ids=lambda changed: next(iter(changed.items()), None).__repr__(),
)
def test_other_types_and_nulls_are_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    split = {"row": [0, 1], "input_ids": [[1, 2], [3, 4]], "loss_mask": [[False, True], [False, True]]} | changed
    pl.DataFrame(split).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match=r"x\.parquet has a column of another type than it should be, or one with nulls"):
        read_rows(tmp_path / "x.parquet")


def test_reading_imports_no_pandas(splits: Path) -> None:
    program = "import sys; from pathlib import Path; from llm_platform.training.rows import read_rows; read_rows(Path(sys.argv[1])); "
    command = [sys.executable, "-c", program + "assert 'pandas' not in sys.modules", str(splits / "train.parquet")]
    subprocess.run(command, check=True, timeout=120)
