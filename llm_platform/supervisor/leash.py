"""Become a command that receives SIGTERM when its parent dies: `python -I -S leash.py PARENT_PID COMMAND...`.

A program of its own, since the same call between fork and exec (`preexec_fn`) can deadlock in a process that has threads.
It imports as little as possible: it runs before every service. Only Linux has such a signal; elsewhere the guardian alone cares.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above took effect
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
