"""Ends what is left of an instance when its supervisor is gone: `python -m llm_platform.supervisor.guardian INSTANCE`.

It waits for its standard input, a pipe whose other end only the supervisor holds. The end of that pipe without a word means that the
supervisor was killed. Until then it imports nothing, so that it costs a few megabytes and no processor time.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.read(0, 1):
        return
    from llm_platform.supervisor.sweep import sweep

    sweep(sys.argv[1])


if __name__ == "__main__":
    main()
