"""Which of this machine's GPUs a node gets: by file locks, so that nodes share none, and a killed one holds none."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from llm_platform.reporting import Reporter
from llm_platform.settings import Settings
from llm_platform.training.devices import check_enough

VISIBLE = "CUDA_VISIBLE_DEVICES"
UUIDS = ("GPU-", "MIG-")
LOOK_EVERY = 0.5
"""Seconds between looks for a GPU that has become free."""


def present() -> list[str]:
    """The GPUs that this process may use, by number or UUID: those of CUDA_VISIBLE_DEVICES, or where that is unset, all."""
    if VISIBLE in os.environ:
        return [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip() not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=uuid", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return found.stdout.split() if found.returncode == 0 else []


def machine() -> str:
    """This machine since its last start, the same in all of its containers. Several may have the folder of the locks on one volume."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


@contextmanager
def claimed(count: int, settings: Settings, reporter: Reporter) -> Iterator[list[str]]:
    """Waits until `count` GPUs are free; in the block they are this process's, and CUDA sees no others. Nothing where there are none.

    CUDA must not have been used yet. Raises InvalidConfig if there are fewer, or Cancelled while waiting.
    """
    gpus = present()
    if not gpus:
        yield []
        return
    check_enough(count, len(gpus))
    before = os.environ.get(VISIBLE)
    with ExitStack() as held:
        mine = _some(count, gpus, settings, reporter, held)
        os.environ[VISIBLE] = ",".join(mine)
        try:
            yield mine
        finally:
            if before is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = before


def _some(count: int, gpus: list[str], settings: Settings, reporter: Reporter, held: ExitStack) -> list[str]:
    told = False
    while True:
        with ExitStack() as locks:
            mine: list[str] = []
            for gpu in gpus:
                if len(mine) < count and _lock(gpu, settings, locks):
                    mine.append(gpu)
            if len(mine) == count:
                held.enter_context(locks.pop_all())
                return mine
        if not told:
            reporter.info(f"Waiting for {count} of this machine's {len(gpus)} GPUs: others are training on them", gpus=len(gpus))
            told = True
        reporter.check_cancelled()
        time.sleep(LOOK_EVERY)


def _lock(gpu: str, settings: Settings, locks: ExitStack) -> bool:
    """Takes one of the places on a GPU, if one is free."""
    folder = settings.cache.expanduser().resolve() / "gpus"  # a machine's, not a platform's
    folder.mkdir(parents=True, exist_ok=True)
    if not gpu.startswith(UUIDS):
        gpu = f"{machine()}-{gpu}"
    for place in range(settings.nodes_per_gpu):
        lock = FileLock(folder / f"{gpu.replace('/', '_')}.{place}.lock")
        try:
            locks.enter_context(lock.acquire(blocking=False))
        except Timeout:
            continue
        return True
    return False
