"""The object store in a real S3."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from llm_platform.errors import NotFound, PlatformError, StorageError
from llm_platform.storage.address import Address, to_address
from llm_platform.storage.base import (
    CHUNK,
    MANIFEST,
    Stat,
    Storage,
    Stored,
    StoredFolder,
    clip_range,
    file_sha256,
    folder_files,
    manifest,
    missing,
    parse_manifest,
)
from llm_platform.storage.temporary import is_abandoned, temporary_name

CHECK_SECONDS = 1.8
UPLOADS = ".uploads/"
"""Keys of the notes that folders are being uploaded; no address leads here."""

_ABSENT = {"404", "NoSuchKey", "NotFound", "NoSuchBucket", "NoSuchUpload"}
_READS = 3
"""How often a download that broke off is taken up again."""
_REPLACED_SECONDS = 0.05
"""Pause before an object that seems to be missing is looked for again."""


class S3Storage(Storage):
    """Objects of a bucket; the SHA-256 is the object's metadata `sha256`.

    `client` is a boto3 S3 client; this class neither makes nor closes it. `buckets` are those that `check` and `sweep` look at.
    Buckets are created when they are first written to.

    S3 has no renaming: while a folder is replaced by a different one, it is absent for a moment, but never mixed.
    """

    def __init__(self, client: Any, buckets: Collection[str] = ()) -> None:
        self._client = client
        self._buckets = tuple(buckets)
        self._made: set[str] = set()
        self._transfer = TransferConfig(multipart_threshold=16 * CHUNK, multipart_chunksize=16 * CHUNK, max_concurrency=4)
        self._probe: _Probe | None = None
        self._probe_lock = threading.Lock()

    def put_file(self, local: Path, address: str, move: bool = False, sha256: str | None = None) -> Stored:
        target = to_address(address)
        stored = self._upload(local, target, sha256)
        if move:
            local.unlink()
        return stored

    def put_bytes(self, data: bytes, address: str) -> Stored:
        target = to_address(address)
        digest = sha256(data).hexdigest()
        with _failures(target):
            self._make_bucket(target.bucket)
            self._client.put_object(Bucket=target.bucket, Key=target.key, Body=data, Metadata={"sha256": digest})
        return Stored(str(target), len(data), digest)

    def put_folder(self, local: Path, address: str) -> StoredFolder:
        target = to_address(address)
        files = {name: Stored(str(target.child(name)), *file_sha256(local / name)) for name in folder_files(local)}
        data = manifest(files)
        folder = parse_manifest(data, target)
        old = self._folder(target)
        if old is not None and old.sha256 == folder.sha256:
            return folder
        note = Address(target.bucket, UPLOADS + temporary_name())
        with _failures(target):
            self._make_bucket(target.bucket)
            self._client.put_object(Bucket=note.bucket, Key=note.key, Body=json.dumps([str(target), sorted(files)]).encode())
        try:
            if old is not None:
                self._remove(target.bucket, [target.child(MANIFEST).key])
            for name, file in files.items():
                if self._upload(local / name, target.child(name)).sha256 != file.sha256:
                    raise StorageError(f"A file of '{target}' changed while it was stored", address=str(target))
            with _failures(target):
                self._client.put_object(Bucket=target.bucket, Key=target.child(MANIFEST).key, Body=data)
        except BaseException:
            # If this fails too, the note stays, and the sweep will do it.
            with suppress(StorageError):
                self._remove(target.bucket, [*(target.child(name).key for name in files), note.key])
            raise
        self._remove(note.bucket, [note.key])
        if old is not None:
            self._remove(target.bucket, [target.child(name).key for name in old.files if name not in files])
        return folder

    def folder(self, address: str) -> StoredFolder:
        found = self._folder(to_address(address))
        if found is None:
            raise missing(address)
        return found

    def local_path(self, address: str) -> Path | None:
        to_address(address)
        return None

    def read_range(self, address: str, start: int = 0, end: int | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        target = to_address(address)
        head = self._head_to_read(target)
        if head is None:
            raise missing(target)
        start, end = clip_range(start, end, head["ContentLength"])
        return self._read(target, start, end, chunk, head["ETag"])

    def stat(self, address: str) -> Stat | None:
        target = to_address(address)
        head = self._head(target)
        if head is not None:
            # S3's own answers have these names in lower case, other servers' have not.
            digest = {name.lower(): value for name, value in head.get("Metadata", {}).items()}.get("sha256")
            return Stat(str(target), head["ContentLength"], digest, head["LastModified"], False)
        folder = self._folder(target)
        head = self._head(target.child(MANIFEST)) if folder else None
        return Stat(str(target), folder.size_bytes, folder.sha256, head["LastModified"], True) if folder and head else None

    def list_files(self, address: str) -> list[Stat]:
        target = to_address(address)
        folder = self._folder(target)
        if folder is None:
            found = self._below(target)
            return [Stat(f"s3://{target.bucket}/{item['Key']}", item["Size"], None, item["LastModified"], False) for item in found]
        head = self._head(target.child(MANIFEST))
        if head is None:
            return []
        return [Stat(file.address, file.size_bytes, file.sha256, head["LastModified"], False) for file in folder.files.values()]

    def delete(self, address: str) -> None:
        target = to_address(address)
        # The manifest goes first: with it the folder is gone for every reader.
        self._remove(target.bucket, [target.child(MANIFEST).key])
        # Servers over a file system fail to delete a key that is only the beginning of others.
        file = [target.key] if self._head(target) is not None else []
        self._remove(target.bucket, [*file, *(item["Key"] for item in self._below(target))])

    def presigned_url(self, address: str, seconds: int) -> str | None:
        target = to_address(address)
        with _failures(target):
            params = {"Bucket": target.bucket, "Key": target.key}
            return self._client.generate_presigned_url("get_object", Params=params, ExpiresIn=seconds)

    def check(self) -> None:
        """The client's own time limits are longer than this may take, so the question is asked in a thread, one at a time."""
        with self._probe_lock:
            probe = self._probe
            if probe is None or not probe.is_alive():
                probe = self._probe = _Probe(self)
                probe.start()
        probe.join(CHECK_SECONDS)
        if probe.is_alive():
            raise StorageError(f"The object store does not answer within {CHECK_SECONDS:g} seconds")
        if probe.error is not None:
            raise probe.error

    def sweep(self, dry_run: bool = False) -> int:
        count = 0
        for bucket in self._buckets:
            with _failures(f"bucket {bucket}"):
                count += self._sweep(bucket, dry_run)
        return count

    def children(self, bucket: str, folder: str = "") -> list[str]:
        prefix = f"{folder}/" if folder else ""
        with _failures(f"bucket {bucket}"):
            if not self._has_bucket(bucket):
                return []
            found: set[str] = set()
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
                found |= {item["Prefix"].removeprefix(prefix).rstrip("/") for item in page.get("CommonPrefixes", [])}
                found |= {item["Key"].removeprefix(prefix) for item in page.get("Contents", [])}
            return sorted(found - {"", UPLOADS.rstrip("/")})

    def ask(self) -> None:
        """One cheap request per bucket. A bucket that is not there yet is fine: writing will create it."""
        for bucket in self._buckets:
            with _failures(f"bucket {bucket}"):
                self._has_bucket(bucket)

    def make_buckets(self, buckets: Collection[str]) -> None:
        """Makes those that are not there."""
        for bucket in buckets:
            with _failures(f"bucket {bucket}"):
                self._make_bucket(bucket)

    def _sweep(self, bucket: str, dry_run: bool) -> int:
        if not self._has_bucket(bucket):
            return 0
        count = 0
        for item in self._listed(bucket, UPLOADS):
            if not is_abandoned(item["Key"].removeprefix(UPLOADS), item["LastModified"].timestamp()):
                continue
            count += 1
            if dry_run:
                continue
            with closing(self._client.get_object(Bucket=bucket, Key=item["Key"])["Body"]) as body:
                address, names = json.loads(body.read())
            target = to_address(address)
            folder = self._folder(target)
            kept = folder.files if folder else {}
            self._remove(bucket, [target.child(name).key for name in names if name not in kept])
            self._remove(bucket, [item["Key"]])
        for upload in self._multipart_uploads(bucket):
            if is_abandoned("", upload["Initiated"].timestamp()):
                count += 1
                if not dry_run:
                    self._client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return count

    def _multipart_uploads(self, bucket: str) -> list[dict[str, Any]]:
        try:
            return self._client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        except ClientError as error:
            if _code(error) == "NoSuchUpload":  # what some servers say of a bucket that never had one
                return []
            raise

    def _upload(self, local: Path, target: Address, known: str | None = None) -> Stored:
        """Uploads a file; in parts if it is large, and then it appears when the last part is there."""
        try:
            size, digest = (local.stat().st_size, known) if known else file_sha256(local)
        except FileNotFoundError:
            raise NotFound("The file that was to be stored is not there") from None
        with _failures(target):
            self._make_bucket(target.bucket)
            extra = {"Metadata": {"sha256": digest}}
            self._client.upload_file(str(local), target.bucket, target.key, ExtraArgs=extra, Config=self._transfer)
        return Stored(str(target), size, digest)

    def _read(self, target: Address, start: int, end: int, chunk: int, etag: str) -> Iterator[bytes]:
        tries = 0
        while start < end:
            before = start
            try:
                with _failures(target):
                    # IfMatch: a download that is taken up again must go on with the same object.
                    part = self._client.get_object(Bucket=target.bucket, Key=target.key, Range=f"bytes={start}-{end - 1}", IfMatch=etag)
                    with closing(part["Body"]) as body:
                        for piece in body.iter_chunks(chunk):
                            start += len(piece)
                            yield piece
            except StorageError:
                tries = tries + 1 if start == before else 1
                if tries >= _READS:
                    raise

    def _folder(self, target: Address) -> StoredFolder | None:
        try:
            with _failures(target):
                response = self._client.get_object(Bucket=target.bucket, Key=target.child(MANIFEST).key)
                with closing(response["Body"]) as body:
                    return parse_manifest(body.read(), target)
        except NotFound:
            return None

    def _head(self, target: Address) -> dict[str, Any] | None:
        try:
            with _failures(target):
                return self._client.head_object(Bucket=target.bucket, Key=target.key)
        except NotFound:
            return None

    def _head_to_read(self, target: Address) -> dict[str, Any] | None:
        """As `_head`, but asks again before it says no: a server over a file system takes an object away while it is replaced."""
        for _ in range(_READS):
            if (head := self._head(target)) is not None:
                return head
            time.sleep(_REPLACED_SECONDS)
        return None

    def _below(self, target: Address) -> list[dict[str, Any]]:
        with _failures(target):
            return self._listed(target.bucket, f"{target.key}/") if self._has_bucket(target.bucket) else []

    def _listed(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item for page in pages for item in page.get("Contents", [])]

    def _remove(self, bucket: str, keys: list[str]) -> None:
        with _failures(f"bucket {bucket}"):
            if not self._has_bucket(bucket):
                return
            for first in range(0, len(keys), 1000):
                objects = [{"Key": key} for key in keys[first : first + 1000]]
                answer = self._client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
                if failed := [item for item in answer.get("Errors", []) if item.get("Code") not in _ABSENT]:
                    raise StorageError(f"The object store did not delete {len(failed)} objects: {failed[0].get('Code')}")

    def _has_bucket(self, bucket: str) -> bool:
        try:
            self._client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if _code(error) in _ABSENT:
                return False
            raise
        return True

    def _make_bucket(self, bucket: str) -> None:
        if bucket in self._made:
            return
        if not self._has_bucket(bucket):
            region = self._client.meta.region_name
            where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            try:
                self._client.create_bucket(Bucket=bucket, **where)
            except ClientError as error:
                # Somebody else was faster.
                if _code(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise
        self._made.add(bucket)


class _Probe(threading.Thread):
    """One question to the store, whose answer may come too late."""

    def __init__(self, storage: S3Storage) -> None:
        super().__init__(name="storage-check", daemon=True)
        self._storage = storage
        self.error: PlatformError | None = None

    def run(self) -> None:
        try:
            self._storage.ask()
        except PlatformError as error:
            self.error = error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


@contextmanager
def _failures(address: Address | str) -> Iterator[None]:
    """Turns errors of boto3 into the platform's; its messages may name the endpoint, so they are not passed on."""
    try:
        yield
    except ClientError as error:
        if _code(error) in _ABSENT:
            raise missing(address) from None
        raise StorageError(f"The object store refused an operation at '{address}': {_code(error)}", address=str(address)) from None
    except (BotoCoreError, Boto3Error, HTTPError, OSError) as error:
        raise StorageError(f"The object store failed at '{address}': {type(error).__name__}", address=str(address)) from None
