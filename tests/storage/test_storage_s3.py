from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from dagster_aws.s3 import S3Resource

from llm_platform.errors import StorageError
from llm_platform.settings import Settings
from llm_platform.storage import Storage, s3_client, storage_from
from tests.servers import S3Server, free_port

WRITER = """
import sys
from pathlib import Path
from llm_platform.settings import Settings
from llm_platform.storage import storage_from
storage_from(Settings()).put_folder(Path(sys.argv[1]), "s3://artifacts/killed")
"""


def test_presigned_urls_need_no_key(s3: Storage, base: str) -> None:
    s3.put_bytes(b"content", f"{base}/x")
    url = s3.presigned_url(f"{base}/x", 60)
    assert url is not None
    with urllib.request.urlopen(url, timeout=10) as response:
        assert response.read() == b"content"


def test_buckets_are_created_when_first_written_to(s3: Storage, s3_server: S3Server) -> None:
    s3.put_bytes(b"1", "s3://brand-new/x")
    assert s3.exists("s3://brand-new/x")
    assert (s3_server.root / "brand-new").is_dir()


def test_the_client_of_dagster_does_too(s3_server: S3Server, s3_settings: Settings, tmp_path: Path) -> None:
    resource = S3Resource(
        endpoint_url=s3_server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
    )
    storage = storage_from(s3_settings, resource.get_client())
    (tmp_path / "a").write_bytes(b"1" * 100)
    storage.put_file(tmp_path / "a", "s3://artifacts/dagster/file")
    storage.put_bytes(b"1", "s3://artifacts/dagster/bytes")
    assert len(storage.list_files("s3://artifacts/dagster")) == 2
    storage.delete("s3://artifacts/dagster")
    assert storage.list_files("s3://artifacts/dagster") == []


@pytest.mark.timeout(60)  # botocore's own timeouts, with its retries, take minutes
@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "silent"])
def test_a_dead_server_is_found_soon(s3_settings: Settings, silent: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if silent:
            server.listen()
        port = server.getsockname()[1]
        storage = storage_from(s3_settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{port}"}))
        with pytest.raises(StorageError) as caught:
            storage.check()
        assert str(port) not in caught.value.message


def test_wrong_keys_are_an_error_without_secrets(s3_settings: Settings) -> None:
    storage = storage_from(s3_settings.model_copy(update={"s3_secret_key": "wrong-secret"}))
    with pytest.raises(StorageError) as caught:
        storage.put_bytes(b"1", "s3://artifacts/x")
    assert "wrong-secret" not in str(caught.value.body())
    with pytest.raises(StorageError):
        storage.check()


def test_a_failed_upload_is_an_error(s3_settings: Settings, tmp_path: Path) -> None:
    storage = storage_from(s3_settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{free_port()}"}))
    (tmp_path / "a").write_bytes(b"1")
    with pytest.raises(StorageError, match="failed"):
        storage.put_file(tmp_path / "a", "s3://artifacts/x")


def test_a_killed_writer_of_a_folder_leaves_nothing_but_what_the_sweep_removes(
    s3: Storage, s3_settings: Settings, s3_server: S3Server, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3000):
        (source / f"{number:04}").write_bytes(b"x" * 1000)
    environment = {
        "LLM_PLATFORM_HOME": str(tmp_path / "home"),
        "LLM_PLATFORM_S3_ENDPOINT": s3_server.endpoint,
        "LLM_PLATFORM_S3_ACCESS_KEY": s3_server.access_key,
        "LLM_PLATFORM_S3_SECRET_KEY": s3_server.secret_key,
    }
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(source)], env=environment)
    try:
        while not s3.list_files("s3://artifacts/killed"):
            assert writer.poll() is None
        assert s3.sweep() == 0
    finally:
        writer.kill()
        writer.wait()
    assert not s3.exists("s3://artifacts/killed")
    assert s3.list_files("s3://artifacts/killed")
    assert s3.sweep(dry_run=True) == 1 == s3.sweep()
    assert s3.list_files("s3://artifacts/killed") == []
    assert "Contents" not in s3_client(s3_settings).list_objects_v2(Bucket="artifacts", Prefix=".uploads/")
