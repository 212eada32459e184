"""Whatever is killed while jobs run: none is lost, none runs twice, none is without an end, and nothing is left behind.

A few kills of the many that `make soak` makes; see `soak.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_platform.settings import Settings
from llm_platform.training.tiny_llama import ensure
from tests.faults.harness import Faulty
from tests.faults.soak import Soak

KILLS = 5
AT_ONCE = 4
SEED = 1319


@pytest.mark.timeout(1800)  # on a busy machine: each kill of everything is a whole start
def test_nothing_is_lost_when_processes_are_killed_at_random_moments(tmp_path: Path) -> None:
    ensure(Settings().cache)
    with Faulty(tmp_path / "home") as platform:
        soak = Soak(platform, SEED)
        soak.run(KILLS, AT_ONCE)
        tally = soak.finish()
    assert tally.kills >= KILLS and tally.jobs >= 2
    assert tally.problems == [], tally.line()
