"""How fast a dataset is uploaded over HTTP, against `cp` of the same file.

    python -m benchmarks.upload [--megabytes 2000] [--repeats 3] [--kinds jsonl parquet txt]

Both are made durable: `cp` is followed by `sync` of the copy, and the platform answers when everything is on the disk. They
take turns, in one run, with files that the system has in its cache. `ratio` compares `cp` with receiving the file, hashed and
down to the disk (the answer's `Server-Timing` says how much of the request was reading); `ratio_with_analysis_<kind>` with
the whole request: the rows read with every check, their profile, and the canonical table stored. `memory_growth_mb` is how
far the API process grew above its size after one small upload of each kind. A connection that is cut in the middle must leave nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.platform import Started, started_platform
from benchmarks.report import report

KINDS = ("jsonl", "parquet", "txt")
BOUNDARY = "benchmark-boundary"
WORDS = 20_000
PIECE_ROWS = 5_000


def rows(count: int, seed: int) -> list[dict[str, str | int]]:
    """Questions and answers of words whose frequencies fall as those of a language do, so that they pack as prose does."""
    dice = random.Random(seed)
    words = ["".join(dice.choices("etaoinshrdlucmfwypvbgkjqxz", k=dice.randint(2, 9))) for _ in range(WORDS)]
    text = dice.choices(words, [1 / (place + 1) ** 0.9 for place in range(WORDS)], k=400_000)

    def some() -> str:
        start, length = dice.randrange(len(text) - 120), dice.randint(20, 120)
        return " ".join(text[start : start + length])

    return [{"id": number, "question": some(), "answer": some()} for number in range(count)]


def write_file(path: Path, kind: str, size: int) -> None:
    """Rows of a kind, about `size` bytes of them; pieces differ by a number in every row."""
    base = rows(PIECE_ROWS, seed=7)
    if kind == "parquet":
        schema = pa.schema([("id", pa.int64()), ("question", pa.string()), ("answer", pa.string())])
        with pq.ParquetWriter(path, schema, compression="snappy") as out:
            piece = 0
            while path.stat().st_size < size:
                # As many rows as `datasets` writes into a row group, and none twice.
                changed = [{**row, "id": piece * PIECE_ROWS + int(row["id"]), "answer": f"{piece} {row['answer']}"} for row in base]
                out.write_table(pa.Table.from_pylist(changed, schema), row_group_size=1_000)
                piece += 1
        return
    with path.open("w") as file:
        piece = 0
        while file.tell() < size:
            for row in base:
                answer = f"{piece} {row['answer']}"
                changed = {**row, "id": piece * PIECE_ROWS + int(row["id"]), "answer": answer}
                file.write(f"{row['question']} {answer}\n" if kind == "txt" else json.dumps(changed) + "\n")
            piece += 1


def copy_seconds(source: Path, target: Path) -> float:
    begun = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    subprocess.run(["sync", str(target)], check=True)
    seconds = time.perf_counter() - begun
    target.unlink()
    return seconds


def connected(platform: Started, path: Path) -> tuple[socket.socket, bytes]:
    """A connection on which the head of an upload was sent, and what ends the form."""
    url = urlsplit(str(platform.http.base_url))
    start = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'.encode()
    end = f"\r\n--{BOUNDARY}--\r\n".encode()
    head = (
        f"POST {url.path.rstrip('/')}/datasets/upload HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(start) + path.stat().st_size + len(end)}\r\n\r\n"
    )
    connection = socket.create_connection((url.hostname or "", url.port or 80))
    connection.sendall(head.encode() + start)
    return connection, end


def upload_seconds(platform: Started, home: Path, path: Path) -> tuple[float, float]:
    """(Receiving, the whole request) as the client sees them."""
    begun = time.perf_counter()
    connection, end = connected(platform, path)
    with connection, path.open("rb") as file:
        connection.sendfile(file)
        connection.sendall(end)
        answer = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
    total = time.perf_counter() - begun
    read = re.search(r"server-timing:.*\bread;dur=([0-9.]+)", answer, re.IGNORECASE)
    if not answer.startswith("HTTP/1.1 200") or read is None:
        raise SystemExit(f"the upload was refused: {answer}\n{(home / 'logs' / 'api.log').read_text()[-5_000:]}")
    return total - float(read[1]) / 1000, total


def cut_upload(platform: Started, home: Path, path: Path) -> None:
    """Breaks the connection off in the middle of a file. Ends the benchmark if anything of it stays."""
    before = platform.http.get("/datasets").json()["total"], stored_files(home)
    connection, _ = connected(platform, path)
    with connection, path.open("rb") as file:
        connection.sendfile(file, count=path.stat().st_size // 2)
    deadline = time.monotonic() + 60
    while any((home / "work" / "uploads").iterdir()):
        if time.monotonic() > deadline:
            raise SystemExit("a cut upload left a file")
        time.sleep(0.05)
    if (platform.http.get("/datasets").json()["total"], stored_files(home)) != before:
        raise SystemExit("a cut upload left a dataset")


def stored_files(home: Path) -> int:
    return sum(path.is_file() for path in (home / "objects").rglob("*"))


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """The largest resident size of a process so far, in bytes, in a list of one."""
    peak, done = [resident(pid)], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], resident(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def api_pid(home: Path) -> int:
    return json.loads((home / "services.json").read_text())["services"]["api"]["pid"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2_000, help="size of each file")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of copy and upload for each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    copies: list[float] = []
    received: list[float] = []
    ratios: dict[str, list[float]] = {kind: [] for kind in options.kinds}
    table: list[tuple[str, float, float, float]] = []
    with tempfile.TemporaryDirectory() as name, started_platform(Path(name) / "home") as platform:
        folder, home = Path(name), Path(name) / "home"
        for kind in options.kinds:
            write_file(folder / f"small.{kind}", kind, 2_000_000)
            upload_seconds(platform, home, folder / f"small.{kind}")
        pid = api_pid(home)
        before = resident(pid)
        with peak_memory(pid) as peak:
            for kind in options.kinds:
                path = folder / f"data.{kind}"
                write_file(path, kind, options.megabytes * 1_000_000)
                cut_upload(platform, home, path)
                for _ in range(options.repeats):
                    copies.append(copy_seconds(path, folder / "copy"))
                    receiving, whole = upload_seconds(platform, home, path)
                    received.append(receiving)
                    ratios[kind].append(copies[-1] / whole)
                    table.append((kind, copies[-1], receiving, whole))
                    shutil.rmtree(home / "objects" / "datasets")
                path.unlink()
        growth = (peak[0] - before) / 1e6
        if api_pid(home) != pid:
            raise SystemExit("the API process did not survive the uploads")
    ratio = statistics.median(copy / receiving for copy, receiving in zip(copies, received, strict=True))
    figures = {
        "ratio": ratio,
        **{f"ratio_with_analysis_{kind}": statistics.median(found) for kind, found in ratios.items()},
        "copy_seconds": statistics.median(copies),
        "receive_seconds": statistics.median(received),
        "memory_growth_mb": growth,
        "cut_upload_leaves": "nothing",
        "megabytes": options.megabytes,
        "repeats": options.repeats,
    }
    title = f"Upload of {options.megabytes:,} MB against cp and sync; seconds"
    report(title, ["file", "cp + sync", "received", "answered"], table, figures, ["pyarrow", "uvicorn"])


if __name__ == "__main__":
    main()
