"""Runs benchmarks of this folder, each in a process of its own, and keeps what they printed: those that are named, or all that need
no GPU."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NO_BENCHMARKS = {"__init__", "__main__", "platform", "report", "rows"}


def names() -> dict[str, bool]:
    """The benchmarks, and whether they need a GPU."""
    found = sorted(path for path in HERE.glob("*.py") if path.stem not in NO_BENCHMARKS)
    return {path.stem: "\nNEEDS_GPU = True" in path.read_text() for path in found}


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


def main() -> None:
    known = names()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    listed = ", ".join(f"{name} (GPU)" if gpu else name for name, gpu in known.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {listed}")
    wanted = parser.parse_args().names or [name for name, gpu in known.items() if not gpu]
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there is {listed}")
    outcomes = [run(name) for name in wanted]
    sys.exit(0 if all(outcomes) else 1)


if __name__ == "__main__":
    main()
