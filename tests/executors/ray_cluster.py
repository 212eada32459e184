"""A real Ray cluster on this machine, each of whose nodes can be killed."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any

import psutil
import pytest

from llm_platform.data.engine import engine_from
from llm_platform.settings import Settings

NODE: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}
TOKEN = secrets.token_hex(16)
"""One for all clusters of a process: Ray reads it once."""
TRIES = 4
"""Ray gives a node 30 s to start, which is not always enough on a machine that is busy with other tests."""


@contextmanager
def ray_cluster(nodes: int) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` of nodes with a CPU each. Ray reads its settings when it is imported."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets lie in it, whose paths must be short
    resource_tracker.ensure_running()  # else it may be started with the variables by which what belongs to Ray is killed
    # Ray's workers are nice by 15, and would starve beside other tests.
    settings = {"AUTH_MODE": "token", "AUTH_TOKEN": TOKEN, "TMPDIR": folder, "worker_niceness": "0"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"RAY_{name}", value)
        engine_from(Settings(data_engine="ray"))  # imports Ray as the platform does
        cluster = _started(nodes, folder)
        try:
            yield cluster
        finally:
            cluster.shutdown()
            _kill_all(folder)
            shutil.rmtree(folder, ignore_errors=True)


def add_node(cluster: Any) -> None:
    """Another machine of the cluster."""
    for left in reversed(range(TRIES)):
        try:
            cluster.add_node(**NODE)
            return
        except Exception:
            if not left:
                raise


def _started(nodes: int, folder: str) -> Any:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for left in reversed(range(TRIES)):
        try:
            cluster.add_node(**NODE)
            break
        except Exception:
            _kill_all(folder)
            if not left:
                raise
            cluster = Cluster()
    for _ in range(nodes - 1):
        add_node(cluster)
    return cluster


def _kill_all(folder: str) -> None:
    """Also what a node that did not start in time has left."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("RAY_TMPDIR") == folder:
                process.kill()
