from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.supervisor.supervisor_harness import Platform


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Platform]]:
    """Starts a supervisor over the given services; nothing of it is left after the test."""
    started: list[Platform] = []

    def start(*services: dict[str, Any], **options: Any) -> Platform:
        started.append(Platform(tmp_path / "home", services, **options))
        return started[-1]

    yield start
    for platform in started:
        platform.close()
