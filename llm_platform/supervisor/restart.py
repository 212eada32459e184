"""Asks the supervisor of a home folder for a new API process, and waits until it serves."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from llm_platform.errors import Conflict, ServiceUnavailable
from llm_platform.services import is_alive
from llm_platform.settings import Settings

PATIENCE_SECONDS = 150.0


def restart_api(settings: Settings) -> tuple[int, int]:
    """The process ids of the API before and after. Raises Conflict where no platform runs, ServiceUnavailable where the new one fails."""
    state = _state(settings)
    supervisor, api = state.get("supervisor"), state.get("services", {}).get("api", {})
    known = supervisor is not None and "boot_time" in supervisor
    if not supervisor or (known and not is_alive(supervisor["pid"], supervisor["started_at"], supervisor["boot_time"])):
        raise Conflict("No platform runs on this home folder; start it with: llm-platform up")
    if not known or "failed_successors" not in api:  # an earlier version, which the signal would end
        raise Conflict("The platform that runs is of a version that cannot do this; stop it and start it again")
    os.kill(supervisor["pid"], signal.SIGUSR1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        now = _state(settings).get("services", {}).get("api", {})
        if now.get("failed_successors", 0) > api["failed_successors"]:
            raise ServiceUnavailable("The new API process ended before it was ready; the old one serves on. Its log says why: logs/api.log")
        if now.get("pid") not in (None, api["pid"]):
            return api["pid"], now["pid"]
        time.sleep(0.1)
    raise ServiceUnavailable("The new API process is not ready yet; the old one serves until it is")


def _state(settings: Settings) -> dict[str, Any]:
    """What the supervisor wrote down; empty where none runs."""
    try:
        return json.loads(settings.services_file.read_text())
    except (OSError, ValueError):
        return {}
