"""The only names by which stored bytes are known: `s3://bucket/key`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from llm_platform.errors import InvalidConfig

SCHEME = "s3://"
MAX_BYTES = 1024
"""Longest address, in UTF-8 bytes; S3 allows keys of that length."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")


@dataclass(frozen=True)
class Address:
    """A bucket and a key of clean segments: none is empty, `.` or `..`, and the first does not start with a dot."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """The last segment."""
        return self.key.rsplit("/", 1)[-1]

    def child(self, name: str) -> Address:
        """The address of a file of this folder; `name` is relative, with `/`. Raises InvalidConfig."""
        return to_address(f"{self}/{name}")


def parse_address(text: str, allowed_buckets: Collection[str], field: str = "file_path") -> Address:
    """The address that a client wrote.

    Raises InvalidConfig, with `field` in its metadata, for anything but an address in an allowed bucket.
    """
    if reason := _reason(text):
        raise _refused(reason, field)
    address = _split(text)
    if address.bucket not in allowed_buckets:
        raise _refused(f"bucket '{address.bucket}' is not allowed; allowed are {', '.join(sorted(allowed_buckets))}", field)
    return address


def to_address(text: str | Address, field: str = "file_path") -> Address:
    """The same without a list of buckets, for addresses that the platform itself made."""
    if isinstance(text, Address):
        return text
    if reason := _reason(text):
        raise _refused(reason, field)
    return _split(text)


def _split(text: str) -> Address:
    bucket, _, key = text.removeprefix(SCHEME).partition("/")
    return Address(bucket, key)


def _reason(text: str) -> str | None:
    """Why `text` is not an address; None if it is one."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "an address is valid Unicode"
    if size > MAX_BYTES:
        return f"an address has at most {MAX_BYTES} bytes; this one has {size}"
    if any(unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") for char in text):
        return "an address has no control characters"
    if not text.startswith(SCHEME):
        return f"'{text[:100]}' is not an address; write s3://bucket/key"
    address = _split(text)
    if not _BUCKET.fullmatch(address.bucket):
        return f"'{address.bucket[:100]}' is not a bucket name; write s3://bucket/key"
    if not address.key:
        return "the address names a bucket but no key; write s3://bucket/key"
    if "\\" in text or _PERCENT.search(text):
        return "an address has no backslashes and no percent-encoding; write the key as it is"
    segments = address.key.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        return "a key has no empty, '.' or '..' segments"
    if segments[0].startswith("."):
        return "a key does not start with a dot"
    # A local folder cannot hold a longer name.
    if any(len(segment.encode()) > 255 for segment in segments):
        return "a segment of a key has at most 255 bytes"
    return None


def _refused(reason: str, field: str) -> InvalidConfig:
    return InvalidConfig(reason[0].upper() + reason[1:], errors=[{"field": field, "agent": None, "message": reason}])
