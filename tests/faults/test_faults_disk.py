"""A disk that is full: what cannot be written is refused and leaves nothing behind, what is there can be read, and later all goes on."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from llm_platform.database import Database
from llm_platform.errors import StorageError
from llm_platform.runlog import RunLogReporter, read
from llm_platform.settings import Settings
from llm_platform.storage import storage_from
from tests.api.api_harness import CSV, Start

MEBIBYTE = 2**20
LIMITED = """
import resource, sys
from pathlib import Path
from llm_platform.errors import StorageError
from llm_platform.settings import Settings
from llm_platform.storage import storage_from
storage = storage_from(Settings())
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
for write in (storage.put_file, storage.put_folder):
    try:
        write(Path(sys.argv[1]) / ("folder" if write == storage.put_folder else "file"), "s3://artifacts/x")
    except StorageError as error:
        print(error.message)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of the test's own, in memory."""
    path = Path(tempfile.mkdtemp(dir=tmp_path))
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(path)], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("only root may mount a disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


class Filler:
    """Takes all the room on a disk."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "filler"
        with suppress(OSError), self._path.open("ab", buffering=0) as file:
            for size in (MEBIBYTE, 4096, 1):
                with suppress(OSError):
                    while file.write(b"\0" * size) == size:
                        pass

    def remove(self) -> None:
        self._path.unlink()


def test_the_api_on_a_full_disk_refuses_what_is_new_and_shows_what_is_there(disk: Path, tmp_path: Path) -> None:
    with Start(tmp_path)(home=disk / "home") as api:
        api.put()
        assert api.submit("before").status_code == 200
        assert api.upload(CSV).status_code == 200
        filler, before = Filler(disk), api.counts()
        refused = api.submit("after")
        assert (refused.status_code, refused.json()["error"]) == (503, "SERVICE_UNAVAILABLE"), refused.text
        assert str(disk) not in refused.text and "sqlite" not in refused.text.lower()
        upload = api.upload(CSV * 1000)
        assert (upload.status_code, upload.json()["error"]) in ((500, "STORAGE_ERROR"), (503, "SERVICE_UNAVAILABLE")), upload.text
        assert str(disk) not in upload.text
        assert api.client.get("/jobs/job_before").json()["status"] == "pending"
        assert api.client.get("/datasets").json()["total"] == 1
        filler.remove()
        assert api.counts() == before and api.nothing_left()
        assert api.submit("after").status_code == 200
        assert api.upload(CSV * 1000).status_code == 200


def test_lines_of_a_log_wait_for_room(disk: Path) -> None:
    database = Database(f"sqlite:///{disk / 'platform.db'}")
    with RunLogReporter(database, "run", None, None) as reporter:
        filler = Filler(disk)
        for number in range(3):
            reporter.info(f"line {number} " + "x" * 8000)
            reporter.flush()
        assert read(database, "run") == []
        filler.remove()
    assert [(seq, line["message"][:6]) for seq, line in read(database, "run")] == [(1, "line 0"), (2, "line 1"), (3, "line 2")]
    database.close()


def test_an_artifact_that_does_not_fit_leaves_nothing(disk: Path, tmp_path: Path) -> None:
    make(tmp_path)
    storage = storage_from(Settings(home=disk))
    storage.put_bytes(b"old", "s3://artifacts/old")
    filler = Filler(disk)
    for write in (storage.put_file, storage.put_folder):
        with pytest.raises(StorageError, match="disk is full"):
            write(tmp_path / ("folder" if write == storage.put_folder else "file"), "s3://artifacts/x")
    assert storage.stat("s3://artifacts/x") is None
    assert b"".join(storage.read_range("s3://artifacts/old")) == b"old"
    filler.remove()
    assert no_temporary(disk)
    assert storage.put_folder(tmp_path / "folder", "s3://artifacts/x").size_bytes > MEBIBYTE


def test_a_file_that_may_not_grow_is_the_same(tmp_path: Path) -> None:
    make(tmp_path)
    home = tmp_path / "home"
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, env={"LLM_PLATFORM_HOME": str(home)}, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "The object store's disk is full\n" * 2
    assert no_temporary(home)
    assert storage_from(Settings(home=home)).stat("s3://artifacts/x") is None


def make(folder: Path) -> None:
    """What is to be stored: a file, and a folder with a small and a large one."""
    (folder / "folder").mkdir()
    (folder / "folder" / "small").write_bytes(b"1")
    for path in (folder / "folder" / "weights", folder / "file"):
        path.write_bytes(b"x" * 2 * MEBIBYTE)


def no_temporary(home: Path) -> bool:
    return list((home / "objects" / ".tmp").iterdir()) == []
