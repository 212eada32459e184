"""Memory does not grow with the file: measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCRIPT = """
import json, resource, sys
from pathlib import Path
from llm_platform.data.language import languages
from llm_platform.data.profile import Profiler
from llm_platform.data.read import to_parquet
from llm_platform.errors import DatasetError
form, out = sys.argv[1], Path(sys.argv[2])
languages(["a model that is loaded once"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = []
for path in map(Path, sys.argv[3:]):
    try:
        with Profiler(out.parent) as profiler:
            found.append(to_parquet(path, form, out, path.name, profiler=profiler).rows)
            profiler.profile(out)
    except DatasetError as error:
        found.append(str(error))
print(json.dumps([found, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024]))
"""


def measured(form: str, *paths: Path) -> tuple[list[int | str], int]:
    """(For each file its rows or error, peak MiB above the imports while reading and profiling them)."""
    command = [sys.executable, "-c", SCRIPT, form, str(paths[0].with_name("out.parquet")), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    found, peak = json.loads(done.stdout)
    return found, peak


def write_rows(path: Path, form: str, size: int) -> int:
    """Writes about `size` bytes of rows in a format, and returns their number."""
    text = "Lorem ipsum dolor sit amet, consectetur adipiscing elit. " * 6
    rows = size // len(text)
    with path.open("w") as file:
        file.write({"csv": "id,text\n", "json": "[\n"}.get(form, ""))
        for number in range(rows):
            value = f"{number} {text}"
            if form == "csv":
                file.write(f'{number},"{value}"\n')
            elif form == "txt":
                file.write(f"{value}\n")
            else:
                file.write(json.dumps({"id": number, "text": value}) + (",\n" if form == "json" and number < rows - 1 else "\n"))
        file.write("]" if form == "json" else "")
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "txt"])
def test_reading_200_mb(tmp_path: Path, form: str) -> None:
    path = tmp_path / "upload"
    count = write_rows(path, form, 200 * 2**20)
    rows, peak = measured(form, path)
    assert rows == [count]
    assert peak < 250
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("group_rows", [1_000, 10**6])
def test_reading_200_mb_of_parquet(tmp_path: Path, group_rows: int) -> None:
    path = tmp_path / "upload"
    texts = [f"{number} {'Lorem ipsum dolor sit amet. ' * (number % 20)}" for number in range(700_000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=group_rows, compression="none")
    del texts
    rows, peak = measured("parquet", path)
    assert rows == [700_000]
    assert peak < 250
    path.unlink()


TEXT = "x" * 2**19


def repeated(before: int) -> pa.DictionaryArray:
    """A text of half a megabyte, 400,000 times, behind so many nulls."""
    return pa.DictionaryArray.from_arrays(pa.array([None] * before + [0] * 400_000, pa.int32()), pa.array([TEXT]))


def in_lists(empty: int) -> pa.ListArray:
    """The same in structs in lists, behind so many empty lists."""
    offsets = pa.array([0] * empty + list(range(400_001)), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([repeated(0)], ["content"]))


BOMBS: dict[str, tuple[Callable[[], pa.Array], dict[str, Any]]] = {
    "dictionary": (lambda: repeated(0), {}),
    "dictionary without Arrow's schema": (lambda: repeated(0), {"store_schema": False}),
    "small pages behind nulls": (lambda: repeated(5_000), {"store_schema": False, "data_page_size": 1_000}),
    "nested": (lambda: in_lists(0), {"store_schema": False}),
    "nested behind empty lists": (lambda: in_lists(5_000), {}),
    "prefixes": (
        lambda: pa.array([TEXT + str(number) for number in range(1_000)]),
        {"use_dictionary": False, "column_encoding": {"a": "DELTA_BYTE_ARRAY"}},
    ),
    "a list of one number": (
        lambda: pa.ListArray.from_arrays(pa.array([0, 50_000_000], pa.int32()), pa.array([0]).take(pa.repeat(0, 50_000_000))),
        {},
    ),
}


def test_parquet_bombs_are_refused_in_little_memory(tmp_path: Path) -> None:
    """Some kilobytes each, that stand for hundreds of megabytes or gigabytes."""
    for name, (make, options) in BOMBS.items():
        pq.write_table(pa.table({"a": make()}), tmp_path / name, row_group_size=10**6, **options)
        assert (tmp_path / name).stat().st_size < 2**20
    errors, peak = measured("parquet", *(tmp_path / name for name in BOMBS))
    assert all("bytes in memory" in str(error) for error in errors), errors
    assert peak < 250
