"""Kills processes of a platform at random moments while small jobs run on it: `python -m tests.faults.soak --kills 200 --seed 1`.

In each round two jobs are handed in, something dies meanwhile, up to three times, the platform becomes healthy, the jobs end, those that
failed are tried again until they complete, and everything in `invariants` is looked at. One line per round; the last line is the tally.
The exit code is 0 only if nothing was lost, made twice, stuck or left behind.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from llm_platform.settings import Settings
from llm_platform.training.tiny_llama import ensure
from tests.e2e.conftest import question_rows, wait_for, write_csv
from tests.e2e.pipelines import up_to_training
from tests.faults import invariants
from tests.faults.harness import RUN_PROCESSES, SERVICES, ZYGOTES, Faulty

KILLABLE = (*SERVICES, *RUN_PROCESSES, *ZYGOTES, "supervisor", "everything")
LATEST = 8.0
"""Seconds after the beginning of a round in which its kills come; its two jobs take about as long."""
VICTIM_SECONDS = 60.0
JOB_SECONDS = 240.0
SETTLE_SECONDS = 20.0
TRIES = 4


@dataclass
class Tally:
    """What was seen. Each list names what should not have been."""

    kills: int = 0
    jobs: int = 0
    retries: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    processes_left: int = 0

    @property
    def problems(self) -> list[str]:
        left = [f"{self.processes_left} processes are left"] if self.processes_left else []
        return [*self.lost, *self.duplicated, *self.stuck, *self.broken, *left]

    def line(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("lost", "duplicated", "stuck", "broken")}
        told = {"kills": self.kills, "jobs": self.jobs, "retries": self.retries, **counts, "processes_left": self.processes_left}
        return " ".join(f"{name}={value}" for name, value in told.items())


class Soak:
    """Rounds on one platform. Who is killed, and when, comes from the seed; each kind has its turn before one comes again."""

    def __init__(self, platform: Faulty, seed: int, say: Callable[[str], None] = print) -> None:
        self.platform = platform
        self.tally = Tally()
        self._say = say
        self._drawn = random.Random(seed)
        self._seed = seed
        self._accepted: list[str] = []
        self._victims = self._deal()
        rows = write_csv(platform.home.parent / "rows.csv", question_rows(60))
        self._dataset = {"dataset_id": platform.running.upload(rows)["dataset_id"]}

    def _deal(self) -> Iterator[str]:
        while True:
            yield from self._drawn.sample(KILLABLE, len(KILLABLE))

    def run(self, kills: int, most: int = 3) -> Tally:
        """So many kills, at most `most` of them in one round."""
        while self.tally.kills < kills:
            number = min(self._drawn.randint(1, most), kills - self.tally.kills)
            began, before = time.monotonic(), len(self.tally.problems)
            planned = sorted((self._drawn.uniform(0.0, LATEST), next(self._victims)) for _ in range(number))
            jobs = self._round(planned)
            new = self.tally.problems[before:]
            told = ", ".join(f"{victim} at {moment:.1f} s" for moment, victim in planned)
            ends = ", ".join(job["status"] for job in jobs)
            self._say(f"kills {self.tally.kills}/{kills}: {told}; jobs first {ends}; {time.monotonic() - began:.0f} s; {len(new)} problems")
            for problem in new:
                self._say(f"  {problem}")
        return self.tally

    def finish(self) -> Tally:
        """Once, at the end: every job that was ever accepted is there, and no process outlives the platform."""
        self.tally.lost += invariants.lost(self.platform, self._accepted)
        self.tally.processes_left += self.platform.stop()
        return self.tally

    def _round(self, planned: Sequence[tuple[float, str]]) -> list[dict[str, Any]]:
        """The jobs as they first ended."""
        run_ids = [f"soak-{self._seed}-{self.tally.jobs + number}" for number in (1, 2)]
        with ThreadPoolExecutor(1) as killer:
            killed = killer.submit(self._kill, planned)
            for run_id in run_ids:
                self._submit(run_id)
            killed.result()
        self.platform.wait_healthy()
        ended = [job for run_id in run_ids if (job := self._wait_end(run_id)) is not None]
        self._bring_to_completion(ended)
        self.tally.lost += invariants.lost(self.platform, run_ids)
        self.tally.stuck += self._settled(invariants.held)
        return ended

    def _submit(self, run_id: str) -> None:
        """Until it is answered with 2xx: then the job must never be lost, and asking several times must not make several."""
        pipeline = up_to_training(self._dataset, run_id=run_id, max_steps=12, checkpoint_every=3)

        def accepted() -> bool:
            with suppress(httpx.TransportError, RuntimeError):  # the second is of a client that was closed with its platform
                answer = self.platform.running.http.post("/jobs", json={"pipeline_config": pipeline})
                assert answer.status_code < 500 or answer.status_code == 503, answer.text
                return answer.is_success
            return False

        wait_for(accepted, JOB_SECONDS, f"{run_id} is accepted")
        self._accepted.append(run_id)
        self.tally.jobs += 1

    def _kill(self, planned: Sequence[tuple[float, str]]) -> None:
        began = time.monotonic()
        for moment, victim in planned:
            time.sleep(max(0.0, began + moment - time.monotonic()))  # the drawn moment
            if victim == "supervisor":
                self.platform.kill_supervisor()
            elif victim == "everything":
                self.platform.kill_everything()
            elif not self._waited(victim):
                continue  # both jobs ended before
            self.tally.kills += 1

    def _waited(self, victim: str) -> bool:
        """False if none came, a run worker after the last job for example."""
        try:
            return wait_for(lambda: self._killed(victim), VICTIM_SECONDS, f"a {victim} to kill")
        except AssertionError:
            return False

    def _killed(self, victim: str) -> bool:
        """False while there is none."""
        if victim in SERVICES:
            with suppress(KeyError, ValueError, OSError, psutil.Error):
                psutil.Process(self.platform.running.service(victim)["pid"]).kill()
                return True
            return False
        for process in self.platform.named(victim):
            with suppress(psutil.Error):
                process.kill()
                return True
        return False

    def _wait_end(self, run_id: str) -> dict[str, Any] | None:
        try:
            return wait_for(lambda: self._ended(run_id), JOB_SECONDS, f"{run_id} has ended")
        except AssertionError:
            self.tally.stuck.append(f"{run_id} has not ended within {JOB_SECONDS:g} s")
            return None

    def _ended(self, run_id: str) -> dict[str, Any] | None:
        with suppress(httpx.TransportError):
            job = self.platform.running.job(f"job_{run_id}")
            return job if job["status"] in invariants.FINAL else None
        return None

    def _bring_to_completion(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Tries those again that failed, together, and looks at what came of each."""
        tries = dict.fromkeys((job["run_id"] for job in jobs), 1)
        newest = {job["run_id"]: job for job in jobs}
        while failed := [job for job in newest.values() if job["status"] != "completed" and tries[job["run_id"]] < TRIES]:
            for job in failed:
                self._try_again(job)
                tries[job["run_id"]] += 1
            newest |= {job["run_id"]: again for job in failed if (again := self._wait_end(job["run_id"])) is not None}
        for run_id, job in newest.items():
            if job["status"] != "completed":
                self.tally.lost.append(f"{run_id} does not complete, however often it is tried: {job['result']}")
                continue
            self.tally.duplicated += invariants.twice(self.platform, run_id, tries[run_id])
            self.tally.broken += invariants.half_written(self.platform, run_id) + invariants.broken_log(self.platform, run_id)

    def _try_again(self, job: dict[str, Any]) -> None:
        self.tally.lost += invariants.unexplained(job)
        answer = self.platform.running.http.post(f"/jobs/{job['job_id']}/retry")
        if not answer.is_success:
            self.tally.lost.append(f"{job['run_id']} cannot be tried again: {answer.text}")
        self.tally.retries += answer.is_success

    def _settled(self, check: Callable[[Faulty], list[str]]) -> list[str]:
        """What a check still finds when it had some time to find nothing."""
        with suppress(AssertionError):
            wait_for(lambda: not check(self.platform), SETTLE_SECONDS, "nothing is held")
        return check(self.platform)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the platform is stopped then, too
    ensure(Settings().cache)
    with tempfile.TemporaryDirectory(prefix="llm-platform-soak-") as folder, Faulty(Path(folder) / "home") as platform:
        soak = Soak(platform, given.seed, lambda text: print(text, flush=True))
        try:
            soak.run(given.kills)
        except AssertionError as error:  # it did not become healthy, for example: nothing more can be tried
            soak.tally.stuck.append(str(error))
        tally = soak.finish()
    for problem in tally.problems:
        print(problem, file=sys.stderr)
    sys.stderr.flush()
    print(tally.line(), flush=True)
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
