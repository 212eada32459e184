"""How soon a log line reaches who watches, what open streams cost, and whether lost connections lose lines.

    python -m benchmarks.log_stream [--lines 500] [--streams 300] [--disconnects 200] [--history 100000]

A platform as `llm-platform up` starts it; lines are written by another process, as a job's worker writes them.

latency  from the call that logs a line, every 20 ms, to its event at a client of `GET /logs/stream/{run_id}`: alone, and
         with the other streams open. Both processes read the same clock.
memory   how far the API process grows while `streams` streams are open, over a tenth as many runs, and all have got their
         run's last 1,000 lines.
resume   one reader of a log of `history` lines, the last fifth of which is written meanwhile, which breaks its connection off
         at `disconnects` random lines and goes on with `Last-Event-ID`; `gaps` and `repeats` must be 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.platform import started_platform
from benchmarks.report import report
from benchmarks.upload import api_pid, resident
from llm_platform import runlog
from llm_platform.client.sse import Event, Events
from llm_platform.database import Database
from llm_platform.settings import Settings

EVERY_SECONDS = 0.02
SHOWN_LINES = 1_000
"""Lines of each run that open streams have behind them."""

EMIT = """
import sys, time
from llm_platform.database import Database
from llm_platform.runlog import RunLogReporter
from llm_platform.settings import Settings
run_id, count, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with RunLogReporter(Database.from_settings(Settings()), run_id, "TrainingAgent", "training") as reporter:
    print("ready", flush=True)
    sys.stdin.readline()
    for step in range(count):
        reporter.metric("Training step completed", step=step, epoch=0.1, loss=1.5, emitted=time.time())
        time.sleep(pause)
"""


class Emitter:
    """A process that writes `count` METRIC lines once it is told to; each says when it was emitted."""

    def __init__(self, environment: dict[str, str], run_id: str, count: int, pause: float) -> None:
        command = [sys.executable, "-c", EMIT, run_id, str(count), str(pause)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=os.environ | environment, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        self._process.communicate()
        if self._process.returncode:
            raise SystemExit("the process that writes lines has failed")


async def events(url: str, run_id: str, after: str | None = None) -> AsyncGenerator[Event]:
    """The events of one connection, as soon as they are there."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        resumed = "" if after is None else f"Last-Event-ID: {after}\r\n"
        writer.write(f"GET {parts.path.rstrip('/')}/logs/stream/{run_id} HTTP/1.1\r\nHost: platform\r\n{resumed}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise SystemExit(f"a stream was refused: {head.decode()}")
        parser = Events()
        while size := int(await reader.readuntil(b"\r\n"), 16):
            chunk = await reader.readexactly(size + 2)
            for event in parser.feed(chunk[:-2]):
                yield event
    finally:
        writer.close()


def write_lines(database: Database, run_id: str, count: int) -> None:
    for start in range(0, count, 1_000):
        lines = range(start, min(start + 1_000, count))
        runlog.append(database, run_id, [runlog.line("METRIC", "Training step completed", step=step, loss=1.5) for step in lines])


async def latencies(url: str, environment: dict[str, str], run_id: str, count: int) -> list[float]:
    """Seconds from emission to the client, of each line."""
    emitter = await asyncio.to_thread(Emitter, environment, run_id, count, EVERY_SECONDS)
    found: list[float] = []
    async with aclosing(events(url, run_id)) as stream:
        emitter.go()
        async for event in stream:
            line = json.loads(event.data)
            if "emitted" in line:
                found.append(time.time() - line["emitted"])
            if len(found) == count:
                break
    await asyncio.to_thread(emitter.wait)
    return found


@asynccontextmanager
async def open_streams(url: str, run_ids: list[str], count: int) -> AsyncIterator[None]:
    """So many streams, spread over the runs, each of which has got all lines that there are."""
    caught_up = asyncio.Semaphore(0)

    async def read(run_id: str) -> None:
        number = 0
        async for _ in events(url, run_id):
            number += 1
            if number == SHOWN_LINES:
                caught_up.release()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(read(run_ids[number % len(run_ids)])) for number in range(count)]
        for _ in tasks:
            await caught_up.acquire()
        yield
        for task in tasks:
            task.cancel()


async def resumed(url: str, run_id: str, count: int, disconnects: int) -> tuple[int, int]:
    """(Lines that were left out, lines that came again or late.)"""
    dice = random.Random(3)
    breaks = set(dice.sample(range(1, count), disconnects))
    last, gaps, repeats = 0, 0, 0
    while last < count:
        async with aclosing(events(url, run_id, f"{run_id}:{last}")) as stream:
            async for event in stream:
                seq = int((event.id or "").rpartition(":")[2])
                gaps += max(seq - last - 1, 0)
                repeats += seq <= last
                last = max(seq, last)
                if seq in breaks or last == count:
                    breaks.discard(seq)
                    break
    if breaks:
        raise SystemExit(f"{len(breaks)} of the connections were never broken off")
    return gaps, repeats


async def measure(options: argparse.Namespace, url: str, environment: dict[str, str], home: Path) -> dict[str, float]:
    database = Database.from_settings(Settings(home=home))
    for run_id in ("warm", "alone", "beside"):
        write_lines(database, run_id, 1)
    await latencies(url, environment, "warm", 50)
    alone = await latencies(url, environment, "alone", options.lines)
    run_ids = [f"watched-{number}" for number in range(max(options.streams // 10, 1))]
    for run_id in run_ids:
        write_lines(database, run_id, SHOWN_LINES)
    pid = api_pid(home)
    before = resident(pid)
    async with open_streams(url, run_ids, options.streams):
        growth = resident(pid) - before
        beside = await latencies(url, environment, "beside", options.lines)
        growth = max(growth, resident(pid) - before)
    written = options.history * 4 // 5
    await asyncio.to_thread(write_lines, database, "long", written)
    emitter = await asyncio.to_thread(Emitter, environment, "long", options.history - written, 0.0002)
    emitter.go()
    begun = time.perf_counter()
    gaps, repeats = await resumed(url, "long", options.history, options.disconnects)
    seconds = time.perf_counter() - begun
    await asyncio.to_thread(emitter.wait)
    database.close()
    figures = {"p50_ms": 1000 * statistics.median(alone), "p95_ms": 1000 * statistics.quantiles(alone, n=20)[18]}
    figures |= {
        "p95_beside_streams_ms": 1000 * statistics.quantiles(beside, n=20)[18],
        "memory_growth_mb": growth / 1e6,
        "gaps": gaps,
        "repeats": repeats,
        "resume_seconds": seconds,
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=500, help="lines whose latency is measured")
    parser.add_argument("--streams", type=int, default=300, help="streams that are open at once")
    parser.add_argument("--disconnects", type=int, default=200, help="connections that break off")
    parser.add_argument("--history", type=int, default=100_000, help="lines of the log that is read over them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, started_platform(Path(name) / "home") as platform:
        url = str(platform.http.base_url)
        figures = asyncio.run(measure(options, url, platform.environment, Path(name) / "home"))
    figures |= {name: getattr(options, name) for name in ("lines", "streams", "disconnects", "history")}
    title = f"Log streams: {options.streams} open, {options.disconnects} disconnects over {options.history:,} lines"
    report(title, ["figure", "value"], [(name.replace("_", " "), value) for name, value in figures.items()], figures, ["uvicorn"])


if __name__ == "__main__":
    main()
