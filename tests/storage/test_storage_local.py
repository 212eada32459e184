from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_platform.errors import Conflict, InvalidConfig, StorageError
from llm_platform.settings import Settings
from llm_platform.storage import LocalStorage, storage_from

WRITER = """
import sys
from pathlib import Path
from llm_platform.storage import LocalStorage
storage = LocalStorage(Path(sys.argv[1]))
if sys.argv[2] == "file":
    storage.put_file(Path(sys.argv[3]), "s3://artifacts/x")
else:
    storage.put_folder(Path(sys.argv[3]), "s3://artifacts/x")
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def local(root: Path) -> LocalStorage:
    return LocalStorage(root)


def temps(root: Path) -> list[str]:
    return [path.name for path in (root / ".tmp").iterdir()]


def test_local_paths_are_the_files_themselves(local: LocalStorage, root: Path, tmp_path: Path) -> None:
    local.put_bytes(b"1", "s3://datasets/a/x.csv")
    assert local.local_path("s3://datasets/a/x.csv") == root / "datasets/a/x.csv"
    assert local.as_local("s3://datasets/a/x.csv", tmp_path / "work") == root / "datasets/a/x.csv"
    assert local.presigned_url("s3://datasets/a/x.csv", 60) is None


def test_a_file_put_there_by_hand_is_read_but_has_no_digest(local: LocalStorage, root: Path, tmp_path: Path) -> None:
    (root / "datasets").mkdir()
    (root / "datasets" / "x.csv").write_bytes(b"by hand")
    found = local.stat("s3://datasets/x.csv")
    assert found is not None
    assert (found.size_bytes, found.sha256) == (7, None)
    local.fetch_file("s3://datasets/x.csv", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"by hand"


def test_a_file_changed_by_hand_loses_its_digest(local: LocalStorage, root: Path) -> None:
    local.put_bytes(b"before", "s3://datasets/x")
    (root / "datasets" / "x").write_bytes(b"behind")
    found = local.stat("s3://datasets/x")
    assert found is not None
    assert found.sha256 is None


@pytest.mark.parametrize("target", ["/etc", "../../outside", "../artifacts"])
def test_symbolic_links_out_of_the_bucket_are_not_followed(local: LocalStorage, root: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "passwd").write_text("secret")
    local.put_bytes(b"1", "s3://artifacts/passwd")
    local.put_bytes(b"1", "s3://datasets/inside")
    (root / "datasets" / "link").symlink_to(target)
    for address in ("s3://datasets/link", "s3://datasets/link/passwd"):
        for attempt in (local.stat, local.read_range, local.list_files, local.delete, local.local_path):
            with pytest.raises(InvalidConfig) as caught:
                attempt(address)
            assert str(tmp_path) not in str(caught.value.body())
        with pytest.raises(InvalidConfig):
            local.put_bytes(b"2", address)
    assert (tmp_path / "outside" / "passwd").read_text() == "secret"


def test_a_loop_of_symbolic_links_is_refused(local: LocalStorage, root: Path) -> None:
    (root / "datasets").mkdir()
    (root / "datasets" / "loop").symlink_to("loop")
    with pytest.raises(InvalidConfig):
        local.stat("s3://datasets/loop")


def test_what_is_no_file_does_not_exist(local: LocalStorage, root: Path) -> None:
    (root / "datasets").mkdir()
    os.mkfifo(root / "datasets" / "pipe")
    assert local.stat("s3://datasets/pipe") is None
    assert local.list_files("s3://datasets/pipe") == []


def test_names_that_are_taken_by_the_other_kind(local: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"1")
    local.put_bytes(b"1", "s3://artifacts/x")
    local.put_bytes(b"1", "s3://artifacts/d/x")
    for attempt in (
        lambda: local.put_bytes(b"2", "s3://artifacts/x/y"),
        lambda: local.put_bytes(b"2", "s3://artifacts/d"),
        lambda: local.put_folder(tmp_path / "in", "s3://artifacts/x"),
        lambda: local.put_folder(tmp_path / "in", "s3://artifacts/x/y"),
        lambda: local.put_folder(tmp_path / "in", "s3://artifacts/d"),
    ):
        with pytest.raises(Conflict):
            attempt()
    assert local.exists("s3://artifacts/x")
    assert local.exists("s3://artifacts/d/x")


def test_an_unwritable_store_is_found_by_the_check(local: LocalStorage, root: Path) -> None:
    (root / ".tmp").rmdir()
    (root / ".tmp").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        local.check()
    assert str(root) not in caught.value.message


def test_a_full_disk_is_said_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    """A limit on the size of files, which fails in the same place as a full disk does."""
    LocalStorage(root).put_bytes(b"old", "s3://artifacts/x")
    (tmp_path / "large").write_bytes(b"x" * 3_000_000)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))" + WRITER
    result = subprocess.run(
        [sys.executable, "-c", limited, str(root), "file", str(tmp_path / "large")], capture_output=True, text=True, check=False
    )
    assert "StorageError: The object store's disk is full" in result.stderr
    assert temps(root) == []
    assert b"".join(LocalStorage(root).read_range("s3://artifacts/x")) == b"old"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_writer_leaves_nothing_but_what_the_sweep_removes(root: Path, tmp_path: Path, kind: str) -> None:
    storage = LocalStorage(root)
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"x" * 1000)
    # So large that it is not nearly written when the writer dies, and all holes, so that it costs nothing itself.
    with (source / "b").open("wb") as file:
        file.truncate(50 * 2**30)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(root), kind, str(source if kind == "folder" else source / "b")])
    try:
        while sum(path.stat().st_size for path in (root / ".tmp").rglob("*") if path.is_file()) < 2**21:
            assert writer.poll() is None
        assert storage.sweep() == 0
        assert not storage.exists("s3://artifacts/x")
    finally:
        writer.kill()
        writer.wait()
    assert not storage.exists("s3://artifacts/x")
    assert storage.list_files("s3://artifacts/x") == []
    assert len(temps(root)) == 1
    assert storage.sweep(dry_run=True) == 1 == storage.sweep()
    assert temps(root) == []


def test_a_failed_writer_removes_its_temporary_files(local: LocalStorage, root: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"1")
    # A file that cannot be read.
    (tmp_path / "in" / "b").symlink_to("/proc/self/mem")
    with pytest.raises(StorageError):
        local.put_folder(tmp_path / "in", "s3://artifacts/f")
    with pytest.raises(StorageError):
        local.put_file(tmp_path / "in" / "b", "s3://artifacts/x", move=True)
    assert temps(root) == []
    assert not local.exists("s3://artifacts/f")
    assert not local.exists("s3://artifacts/x")


def test_old_leftovers_go_whoever_wrote_them(local: LocalStorage, root: Path) -> None:
    for name in ("foreign", "recent"):
        (root / ".tmp" / name).write_bytes(b"")
    os.utime(root / ".tmp" / "foreign", (0, 0))
    assert local.sweep() == 1
    assert temps(root) == ["recent"]


def test_the_default_store_is_below_the_home_folder(tmp_path: Path) -> None:
    storage = storage_from(Settings(home=tmp_path))
    storage.put_bytes(b"1", "s3://datasets/x")
    assert (tmp_path / "objects" / "datasets" / "x").read_bytes() == b"1"
