"""Memory does not grow with the table that is checked: measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

GROUPS, GROUP_ROWS, CELL = 30, 8_000, 2_500
SCRIPT = """
import json, resource, sys
from pathlib import Path
from llm_platform.data.validate import validate
from llm_platform.specs import ValidationConfig
columns = [{"column": "text", "pattern": "^x", "max_length": 5000}, {"column": "id", "type": "integer", "unique": True}]
config = ValidationConfig.model_validate({"on_error": "drop", "rules": {"columns": columns}})
table, out = Path(sys.argv[1]), Path(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = validate(table, config, out / "out.parquet", out)
print(json.dumps([report.rows_in, report.rows_out, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024]))
"""


def test_memory_stays_below_the_tables_size(tmp_path: Path) -> None:
    text = pa.array(["x" * CELL] * (GROUP_ROWS - 1) + ["y" * CELL])
    schema = pa.schema([("text", pa.string()), ("id", pa.int64())])
    with pq.ParquetWriter(tmp_path / "table.parquet", schema) as file:
        for group in range(GROUPS):
            ids = pa.array(range(group * GROUP_ROWS, (group + 1) * GROUP_ROWS))
            file.write_table(pa.table([text, ids], schema=schema))
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "table.parquet"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    rows_in, rows_out, grown = json.loads(done.stdout)
    assert (rows_in, rows_out) == (GROUPS * GROUP_ROWS, GROUPS * (GROUP_ROWS - 1))
    assert grown < 400, f"{grown} MiB for a table of {GROUPS * GROUP_ROWS * CELL // 2**20} MiB"
