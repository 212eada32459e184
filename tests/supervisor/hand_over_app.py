"""The real API with an orchestrator whose runs go on until the file `ended` is in the home folder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi import FastAPI

import api.main
from api.orchestration import RunState
from llm_platform.settings import Settings
from tests.api.api_harness import FakeOrchestrator


class Patient(FakeOrchestrator):
    def states(self, dagster_run_ids: Sequence[str]) -> dict[str, RunState]:
        at = datetime.now(UTC)
        ended = (Settings().root / "ended").exists()
        return {name: RunState(name, "completed" if ended else "running", at, at if ended else None) for name in dagster_run_ids}


def create_app() -> FastAPI:
    return api.main.create_app(orchestrator=Patient())
