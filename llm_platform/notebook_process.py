"""The process of a notebook's kernel: `python -m llm_platform.notebook_process PARENT -f FILE ...`.

However the process that started it ends, this one ends with it; and where memory runs out, the system kills this one first.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil

MARKER = "LLM_PLATFORM_NOTEBOOK"
"""In the environment of the kernel, and so of all that it starts: the folder that it runs in."""
_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = int(sys.argv.pop(1))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("whoever started this kernel is gone")
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()


def kill_all(folder: Path) -> int:
    """Kills what notebooks that ran below a folder have started, also what left its process tree. How many there were."""
    found = 0
    for process in psutil.process_iter():
        # Another user's environment cannot be read, and a zombie has none.
        with suppress(psutil.Error, OSError):
            marked = process.environ().get(MARKER)
            if marked is not None and process.pid != os.getpid() and Path(marked).is_relative_to(folder):
                process.kill()
                found += 1
    return found


if __name__ == "__main__":
    main()
