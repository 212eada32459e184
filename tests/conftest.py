"""What every test shares. The suite's processes wait for their threads without spinning, since tests run beside servers,
and no platform that a test starts counts its requests, unless the test says so. Of several workers, one does a whole folder of those
whose tests start platforms and clusters: they share what they start, and do not come last for being few."""

import os
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("LLM_PLATFORM_RATE_LIMIT_DEFAULT", "1000000")
os.environ.setdefault("LLM_PLATFORM_RATE_LIMIT_AUTHENTICATED", "1000000")

WHOLE = ("tests/client/", "tests/docker/", "tests/e2e/", "tests/executors/", "tests/faults/")


class Scheduling(LoadFileScheduling):
    """File by file (those of many tests first), but for the folders that stay whole."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in WHOLE if nodeid.startswith(folder)), None) or super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None
