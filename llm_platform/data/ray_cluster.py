"""The connection to the Ray cluster, for preprocessing by Ray Data and for heavy nodes (the executor `ray`).

All nodes of the cluster see the platform's home folder and the folders of base models under the same paths, and have the same
version of the platform installed.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from llm_platform.errors import InvalidConfig, ServiceUnavailable

# Ray reads these when it is imported. A thread of Ray Data that outlives its work for a moment would connect to whatever it finds.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayError

PATIENCE = 5
"""Seconds in which the cluster's port must answer; Ray itself would wait for many minutes."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects this process to the cluster at HOST:PORT, of which this machine is a node, or without it to one of this machine's
    CPUs and GPUs that ends with the block. If this process is connected already, that connection is used, and stays.

    Raises InvalidConfig if the address is none, ServiceUnavailable if the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    in_main = threading.current_thread() is threading.main_thread()
    on_stop = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _check_answers(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        else:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, RayError) as error:
        raise ServiceUnavailable("The Ray cluster cannot be used; LLM_PLATFORM_RAY_ADDRESS says where it is") from error
    finally:
        if in_main and on_stop is not None:
            signal.signal(signal.SIGTERM, on_stop)  # Ray's own would skip what the caller does when it is told to stop
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raises OSError if nothing listens at the address, InvalidConfig if it is none."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise InvalidConfig("LLM_PLATFORM_RAY_ADDRESS must be HOST:PORT, such as 10.0.0.1:6379")
    with socket.create_connection((host.strip("[]"), int(port)), PATIENCE):
        pass
