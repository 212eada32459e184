"""How often somebody who waits for a job asks, and when he gives up."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import anyio
import pytest

from llm_platform import AsyncClient, Client
from llm_platform.client.views import FIRST_POLL, SLOWEST_POLL, JobView, Waiting
from llm_platform.specs import resources
from tests.client.conftest import Seen, new_job

JOB = JobView(resources.Job.model_validate(new_job("abc123")))
CONFIG: dict[str, Any] = {"nodes": [], "edges": []}


def test_pauses_grow_from_half_a_second_to_five() -> None:
    assert (FIRST_POLL, SLOWEST_POLL) == (0.5, 5.0)
    waiting = Waiting(None, 0.0)
    pauses = [waiting.next(JOB, now=1e6) for _ in range(12)]
    assert pauses[:4] == [0.5, 0.75, 1.125, 1.6875]
    assert all(before < after for before, after in pairwise(pauses) if before < 5)
    assert max(pauses) == 5.0 and pauses[-5:] == [5.0] * 5
    assert sum(pauses[:7]) < 17, "a minute of waiting is some fifteen requests: far below any limit"


def test_the_last_pause_is_no_longer_than_the_time_that_is_left() -> None:
    waiting = Waiting(2.0, started=100.0)
    assert waiting.next(JOB, now=100.0) == 0.5
    assert waiting.next(JOB, now=101.0) == 0.75
    assert waiting.next(JOB, now=101.75) == 0.25
    with pytest.raises(TimeoutError, match=r"^job_abc123 is still running after 2 seconds$"):
        waiting.next(JOB, now=102.0)


def test_no_time_at_all_is_one_look() -> None:
    with pytest.raises(TimeoutError, match="after 0 seconds"):
        Waiting(0.0, started=5.0).next(JOB, now=5.0)


def test_both_clients_look_once_more_after_each_pause_and_give_up_in_time(
    client: Client, base_url: str, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = client.jobs.create(CONFIG).job_id
    slept: list[float] = []
    clock = [100.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    async def nap(seconds: float) -> None:
        sleep(seconds)

    async def other() -> None:
        async with AsyncClient(base_url) as found:
            await found.jobs.wait(job_id, timeout=2.5, on_update=lambda _: None)

    def wait() -> None:
        client.jobs.wait(job_id, timeout=2.5, on_update=lambda _: None)

    for module, look in (("llm_platform.client.jobs", wait), ("llm_platform.client.aio.jobs", lambda: asyncio.run(other()))):
        slept.clear()
        seen.calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.time", Clock(clock, sleep))
            patch.setattr(anyio, "sleep", nap)
            with pytest.raises(TimeoutError, match=f"{job_id} is still running after 2.5 seconds"):
                look()
        assert slept == [0.5, 0.75, 1.125, 0.125]
        assert seen.calls == [("GET", f"/api/v1/jobs/{job_id}")] * 5


class Clock:
    """What the clients take of the module `time`, in a time of its own."""

    def __init__(self, clock: list[float], sleep: Any) -> None:
        self._clock = clock
        self.sleep = sleep

    def monotonic(self) -> float:
        return self._clock[0]
