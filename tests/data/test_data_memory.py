"""Memory does not grow with the file: measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCRIPT = """
import json, resource, sys
from pathlib import Path
import polars
from llm_platform.data.profile import profile
from llm_platform.data.read import to_parquet
from llm_platform.errors import DatasetError
path, form, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    rows = to_parquet(path, form, out, "upload").rows
    read = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    profile(out)
except DatasetError as error:
    rows = str(error)
    read = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([rows, (read - before) // 1024, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024]))
"""


def measured(path: Path, form: str) -> tuple[int | str, int, int]:
    """(rows or error, peak MiB above the imports while reading, and after profiling too)."""
    command = [sys.executable, "-c", SCRIPT, str(path), form, str(path.with_name("out.parquet"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    rows, read, profiled = json.loads(done.stdout)
    return rows, read, profiled


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
    rows, read, profiled = measured(path, form)
    assert rows == count
    assert read < 600
    assert profiled < 1_000
    path.unlink()


def test_a_parquet_bomb_is_refused_in_little_memory(tmp_path: Path) -> None:
    """One text of half a megabyte, 400,000 times: a few kilobytes that stand for 200 gigabytes."""
    path = tmp_path / "upload"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 400_000, pa.int32()), pa.array(["x" * 2**19]))
    pq.write_table(pa.table({"a": text}), path, row_group_size=400_000)
    assert path.stat().st_size < 2**20
    error, read, _ = measured(path, "parquet")
    assert "bytes in memory" in str(error)
    assert read < 500
