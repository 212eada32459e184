"""A real S3 server that answers with errors, breaks off and is slow, by a proxy in front of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llm_platform.errors import StorageError
from llm_platform.settings import Settings
from llm_platform.storage import Storage, storage_from
from llm_platform.storage.base import MANIFEST
from tests.faults.s3_proxy import Fault, Proxy, proxy_of
from tests.servers import rclone_s3


@dataclass
class Faulty:
    """The same object store, reached directly and through the proxy."""

    proxy: Proxy
    direct: Storage
    storage: Storage


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    with rclone_s3(tmp_path_factory.mktemp("s3")) as server, proxy_of(server.endpoint) as proxy:
        home = tmp_path_factory.mktemp("home")
        keys = Settings(home=home, s3_access_key=server.access_key, s3_secret_key=server.secret_key)
        direct, through = (keys.model_copy(update={"s3_endpoint": url}) for url in (server.endpoint, proxy.endpoint))
        yield Faulty(proxy, storage_from(direct), storage_from(through))


@pytest.fixture(autouse=True)
def no_fault(faulty: Faulty) -> None:
    """Each test begins with a server that works."""
    faulty.proxy.fault = lambda _method, _path: None
    faulty.proxy.faults = 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "weights").write_bytes(bytes(range(256)) * 4096)
    return path


def digest(storage: Storage, address: str) -> str:
    return hashlib.sha256(b"".join(storage.read_range(address))).hexdigest()


@pytest.mark.parametrize("fault", ["503", "break", "slow"])
def test_what_passes_by_itself_is_tried_again_and_the_result_is_whole(faulty: Faulty, folder: Path, fault: Fault) -> None:
    address = f"s3://artifacts/tried-again-{fault}"
    faulty.proxy.fail_first(2, fault)
    stored = faulty.storage.put_folder(folder, address)
    assert faulty.proxy.faults == 2
    faulty.proxy.fail_first(2, fault)
    assert faulty.storage.folder(address) == stored == faulty.direct.folder(address)
    faulty.proxy.fail_first(2, fault, "GET")
    assert digest(faulty.storage, f"{address}/weights") == hashlib.sha256((folder / "weights").read_bytes()).hexdigest()


def test_a_download_that_breaks_off_is_taken_up_where_it_was(faulty: Faulty, folder: Path) -> None:
    faulty.direct.put_folder(folder, "s3://artifacts/halves")
    faulty.proxy.fail_first(2, "half", "GET")
    assert digest(faulty.storage, "s3://artifacts/halves/weights") == hashlib.sha256((folder / "weights").read_bytes()).hexdigest()
    assert faulty.proxy.faults == 2


@pytest.mark.parametrize("name", ["config.json", "weights", MANIFEST])
def test_a_folder_of_which_one_file_cannot_be_stored_is_not_there(faulty: Faulty, folder: Path, name: str) -> None:
    address = f"s3://artifacts/without-{name}"
    faulty.proxy.fault = lambda method, path: "503" if method == "PUT" and path.partition("?")[0].endswith(f"/{name}") else None
    with pytest.raises(StorageError) as caught:
        faulty.storage.put_folder(folder, address)
    assert faulty.proxy.endpoint not in str(caught.value.body())
    assert not faulty.direct.exists(address)
    assert faulty.direct.list_files(address) == [], "what was uploaded of it is gone"
    faulty.proxy.fault = lambda _method, _path: None
    assert faulty.storage.put_folder(folder, address) == faulty.direct.folder(address)


def test_a_folder_that_could_not_be_cleared_away_is_swept_later(faulty: Faulty, folder: Path) -> None:
    """The server fails for good in the middle: neither the rest nor the clearing away can be done."""
    address = "s3://artifacts/half-done"
    seen: list[str] = []

    def fault(method: str, path: str) -> Fault:
        seen.append(path)
        return "503" if any("/half-done/weights" in one for one in seen) and method != "GET" else None

    faulty.proxy.fault = fault
    with pytest.raises(StorageError):
        faulty.storage.put_folder(folder, address)
    assert not faulty.direct.exists(address), "without its manifest it is no folder"
    assert faulty.direct.sweep() == 0, "its writer, this process, lives"
    faulty.proxy.fault = lambda _method, _path: None
    assert faulty.storage.put_folder(folder, address) == faulty.direct.folder(address)


def test_a_server_that_fails_for_good_is_told_by_the_check(faulty: Faulty) -> None:
    faulty.storage.check()
    faulty.proxy.fault = lambda _method, _path: "503"
    with pytest.raises(StorageError) as caught:
        faulty.storage.check()
    assert faulty.proxy.endpoint not in str(caught.value.body())
