"""What the local folder and a real S3 have in common."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llm_platform.errors import InvalidConfig, NotFound, RangeNotSatisfiable, StorageError
from llm_platform.storage import MANIFEST, Storage

DATA = bytes(range(256)) * 40


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def read_folder(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {name: file.read_bytes() for file in files if (name := file.relative_to(path).as_posix()) != MANIFEST}


def test_a_file_comes_back_as_it_was(storage: Storage, base: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    stored = storage.put_file(source, f"{base}/a/x.bin")
    assert (stored.address, stored.size_bytes, stored.sha256) == (f"{base}/a/x.bin", len(DATA), digest(DATA))
    assert source.exists()
    found = storage.stat(f"{base}/a/x.bin")
    assert found is not None
    assert (found.size_bytes, found.sha256, found.is_folder) == (len(DATA), digest(DATA), False)
    assert abs(found.modified - datetime.now(UTC)) < timedelta(minutes=5)
    storage.fetch_file(f"{base}/a/x.bin", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


@pytest.mark.parametrize("key", ["ein Name & mehr.csv", "数据/ñ.csv", "100%.csv", "a+b=c.txt", "x?y#z"])
def test_keys_with_unusual_characters(storage: Storage, base: str, key: str) -> None:
    storage.put_bytes(b"1", f"{base}/{key}")
    assert [item.address for item in storage.list_files(base)] == [f"{base}/{key}"]
    assert b"".join(storage.read_range(f"{base}/{key}")) == b"1"
    storage.delete(f"{base}/{key}")
    assert storage.list_files(base) == []


def test_moving_a_file_leaves_no_source(storage: Storage, base: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    assert storage.put_file(source, f"{base}/x", move=True).sha256 == digest(DATA)
    assert not source.exists()
    assert b"".join(storage.read_range(f"{base}/x")) == DATA


def test_a_file_is_replaced(storage: Storage, base: str) -> None:
    for data in (b"one", b"two, longer", b""):
        storage.put_bytes(data, f"{base}/x")
        found = storage.stat(f"{base}/x")
        assert found is not None
        assert (found.size_bytes, found.sha256) == (len(data), digest(data))
        assert b"".join(storage.read_range(f"{base}/x")) == data


def test_a_large_file_goes_in_parts(storage: Storage, base: str, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(2**20) * 40)
    stored = storage.put_file(source, f"{base}/large")
    storage.fetch_file(f"{base}/large", tmp_path / "copy")
    assert digest((tmp_path / "copy").read_bytes()) == stored.sha256 == digest(source.read_bytes())


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (0, 1), (100, 200), (len(DATA) - 1, None), (len(DATA), None), (5, 10**9), (7, 7), (0, len(DATA))]
)
def test_ranges(storage: Storage, base: str, start: int, end: int | None) -> None:
    storage.put_bytes(DATA, f"{base}/x")
    pieces = list(storage.read_range(f"{base}/x", start, end, chunk=1000))
    assert b"".join(pieces) == DATA[start:end]
    assert all(0 < len(piece) <= 1000 for piece in pieces)


@pytest.mark.parametrize(("start", "end"), [(len(DATA) + 1, None), (-1, None), (10, 5)])
def test_a_range_outside_is_refused_at_once(storage: Storage, base: str, start: int, end: int | None) -> None:
    storage.put_bytes(DATA, f"{base}/x")
    with pytest.raises(RangeNotSatisfiable) as caught:
        storage.read_range(f"{base}/x", start, end)
    assert caught.value.metadata == {"size_bytes": len(DATA)}


def test_what_is_not_there(storage: Storage, base: str, tmp_path: Path) -> None:
    address = f"{base}/nothing"
    assert storage.stat(address) is None
    assert not storage.exists(address)
    assert storage.list_files(address) == []
    storage.delete(address)
    for attempt in (
        lambda: storage.fetch_file(address, tmp_path / "x"),
        lambda: storage.fetch_folder(address, tmp_path / "x"),
        lambda: storage.folder(address),
        lambda: storage.as_local(address, tmp_path),
        lambda: storage.read_range(address),
        lambda: storage.put_file(tmp_path / "missing", address),
        lambda: storage.put_folder(tmp_path / "missing", address),
    ):
        with pytest.raises(NotFound) as caught:
            attempt()
        assert str(tmp_path) not in caught.value.message
    assert not (tmp_path / "x").exists()
    assert storage.stat("s3://no-such-bucket/x") is None
    assert storage.list_files("s3://no-such-bucket/x") == []
    storage.delete("s3://no-such-bucket/x")


def test_no_address_no_access(storage: Storage, tmp_path: Path) -> None:
    for address in ("/etc/passwd", "file:///etc/passwd", "s3://artifacts/../x", "s3://.sums/x"):
        with pytest.raises(InvalidConfig):
            storage.stat(address)
        with pytest.raises(InvalidConfig):
            storage.put_bytes(b"", address)
        with pytest.raises(InvalidConfig):
            storage.local_path(address)


def test_a_folder_comes_back_as_it_was(storage: Storage, base: str, tmp_path: Path) -> None:
    files = {"a.txt": b"a", "deep/er/b.bin": DATA, "empty": b""}
    stored = storage.put_folder(make_folder(tmp_path / "in", files), f"{base}/f")
    assert {name: file.sha256 for name, file in stored.files.items()} == {name: digest(data) for name, data in files.items()}
    assert stored.files["deep/er/b.bin"].address == f"{base}/f/deep/er/b.bin"
    assert storage.folder(f"{base}/f") == stored
    found = storage.stat(f"{base}/f")
    assert found is not None
    assert (found.is_folder, found.size_bytes, found.sha256) == (True, stored.size_bytes, stored.sha256)
    assert [(item.address, item.sha256) for item in storage.list_files(f"{base}/f")] == [
        (file.address, file.sha256) for file in stored.files.values()
    ]
    assert b"".join(storage.read_range(f"{base}/f/a.txt")) == b"a"
    storage.fetch_folder(f"{base}/f", tmp_path / "out")
    assert read_folder(tmp_path / "out") == files
    assert storage.put_folder(tmp_path / "out", f"{base}/again").sha256 == stored.sha256
    with pytest.raises(NotFound):
        storage.fetch_file(f"{base}/f", tmp_path / "x")


def test_an_identical_folder_is_left_a_different_one_replaced(storage: Storage, base: str, tmp_path: Path) -> None:
    first = make_folder(tmp_path / "1", {"same": b"1", "old": b"2"})
    stored = storage.put_folder(first, f"{base}/f")
    before = storage.stat(f"{base}/f")
    assert storage.put_folder(first, f"{base}/f") == stored
    assert storage.stat(f"{base}/f") == before
    second = storage.put_folder(make_folder(tmp_path / "2", {"same": b"changed", "new": b"3"}), f"{base}/f")
    assert second.sha256 != stored.sha256
    storage.fetch_folder(f"{base}/f", tmp_path / "out")
    assert read_folder(tmp_path / "out") == {"same": b"changed", "new": b"3"}
    assert storage.stat(f"{base}/f/old") is None


def test_a_folder_without_its_manifest_does_not_exist(storage: Storage, base: str, tmp_path: Path) -> None:
    storage.put_folder(make_folder(tmp_path / "in", {"a": b"1", "b": b"2"}), f"{base}/f")
    storage.delete(f"{base}/f/{MANIFEST}")
    assert storage.stat(f"{base}/f") is None
    with pytest.raises(NotFound):
        storage.fetch_folder(f"{base}/f", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_folder_is_not_fetched(storage: Storage, base: str, tmp_path: Path) -> None:
    storage.put_folder(make_folder(tmp_path / "in", {"a": b"1", "b": b"2"}), f"{base}/f")
    storage.put_bytes(b"X", f"{base}/f/b")
    with pytest.raises(StorageError, match="SHA-256"):
        storage.fetch_folder(f"{base}/f", tmp_path / "work" / "out")
    assert not list((tmp_path / "work").iterdir())
    storage.put_bytes(b'{"files": 3}', f"{base}/f/{MANIFEST}")
    with pytest.raises(StorageError, match="manifest"):
        storage.stat(f"{base}/f")


def test_a_foreign_manifest_is_refused(storage: Storage, base: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"manifest\.json"):
        storage.put_folder(make_folder(tmp_path / "in", {"a": b"1", MANIFEST: b"{}"}), f"{base}/f")
    assert storage.list_files(f"{base}/f") == []


def test_a_folder_of_other_things_than_files_is_refused(storage: Storage, base: str, tmp_path: Path) -> None:
    os.mkfifo(make_folder(tmp_path / "in", {"a": b"1"}) / "pipe")
    with pytest.raises(InvalidConfig, match="pipe"):
        storage.put_folder(tmp_path / "in", f"{base}/f")
    assert storage.list_files(f"{base}/f") == []


def test_delete_takes_everything_below(storage: Storage, base: str, tmp_path: Path) -> None:
    storage.put_folder(make_folder(tmp_path / "in", {"a": b"1", "d/b": b"2"}), f"{base}/run/f")
    storage.put_bytes(b"x", f"{base}/run/x")
    storage.put_bytes(b"y", f"{base}/run2")
    assert len(storage.list_files(f"{base}/run")) >= 3
    storage.delete(f"{base}/run")
    storage.delete(f"{base}/run")
    assert storage.list_files(f"{base}/run") == []
    assert storage.stat(f"{base}/run/f") is None
    assert storage.exists(f"{base}/run2")


def test_as_local_copies_once(storage: Storage, base: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    storage.put_bytes(b"one", f"{base}/x.csv")
    storage.put_folder(make_folder(tmp_path / "in", {"a": b"1"}), f"{base}/f")
    file, folder = storage.as_local(f"{base}/x.csv", work), storage.as_local(f"{base}/f", work)
    assert (file.name, file.read_bytes(), read_folder(folder)) == ("x.csv", b"one", {"a": b"1"})
    before = file.stat().st_ino, folder.stat().st_ino
    assert (storage.as_local(f"{base}/x.csv", work), storage.as_local(f"{base}/f", work)) == (file, folder)
    assert (file.stat().st_ino, folder.stat().st_ino) == before
    storage.put_bytes(b"two", f"{base}/x.csv")
    storage.put_folder(make_folder(tmp_path / "in2", {"a": b"2"}), f"{base}/f")
    assert storage.as_local(f"{base}/x.csv", work).read_bytes() == b"two"
    assert read_folder(storage.as_local(f"{base}/f", work)) == {"a": b"2"}


def test_readers_see_one_whole_version_while_writers_replace_it(storage: Storage, base: str) -> None:
    versions = [bytes([value]) * 50_000 for value in range(4)]
    storage.put_bytes(versions[0], f"{base}/x")

    def write(data: bytes) -> None:
        for _ in range(5):
            storage.put_bytes(data, f"{base}/x")

    with ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(write, data) for data in versions]
        while not all(writer.done() for writer in writers):
            try:
                assert b"".join(storage.read_range(f"{base}/x")) in versions
            except StorageError as error:
                # An object that is replaced between two requests is an error that can be tried again, never a mixture.
                assert error.retryable
        for writer in writers:
            writer.result()
    found = storage.stat(f"{base}/x")
    assert found is not None
    assert found.sha256 in {digest(data) for data in versions}


def test_check(storage: Storage) -> None:
    storage.check()


def test_children_are_the_names_directly_below(storage: Storage, base: str) -> None:
    for key in ("one.bin", "folder/two.bin", "folder/deeper/three.bin"):
        storage.put_bytes(DATA, f"{base}/{key}")
    name = base.removeprefix("s3://artifacts/")
    assert storage.children("artifacts", name) == ["folder", "one.bin"]
    assert storage.children("artifacts", f"{name}/folder") == ["deeper", "two.bin"]
    assert name in storage.children("artifacts")
    assert storage.children("artifacts", f"{name}/none") == storage.children("no-such-bucket") == []
