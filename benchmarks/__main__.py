"""Runs every benchmark of this folder that needs no GPU, each in a process of its own, and keeps what it printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NO_BENCHMARKS = {"__init__", "__main__", "platform", "report", "rows"}


def names() -> list[str]:
    return sorted(
        path.stem for path in HERE.glob("*.py") if path.stem not in NO_BENCHMARKS and "\nNEEDS_GPU = True" not in path.read_text()
    )


def run(name: str) -> bool:
    """Passes the benchmark's output on as it comes; keeps it if it succeeded."""
    command = f"python -m benchmarks.{name}"
    print(f"\n$ {command}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait() != 0:
        print(f"{command} failed with exit code {process.returncode}", file=sys.stderr)
        return False
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / f"{name}.txt").write_text(f"$ {command}\n{''.join(lines)}")
    return True


if __name__ == "__main__":
    outcomes = [run(name) for name in names()]
    sys.exit(0 if all(outcomes) else 1)
