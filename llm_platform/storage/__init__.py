"""Where bytes live: `s3://bucket/key` addresses over a local folder or a real S3, atomic and checksummed."""

from __future__ import annotations

from typing import Any

from llm_platform.settings import Settings
from llm_platform.storage.address import Address, parse_address, to_address
from llm_platform.storage.base import MANIFEST, Stat, Storage, Stored, StoredFolder
from llm_platform.storage.local import LocalStorage

__all__ = [
    "MANIFEST",
    "Address",
    "LocalStorage",
    "Stat",
    "Storage",
    "Stored",
    "StoredFolder",
    "parse_address",
    "s3_client",
    "storage_from",
    "to_address",
]


def storage_from(settings: Settings, client: Any = None) -> Storage:
    """The object store that the settings name; `client` is a boto3 S3 client, made from the settings if not given."""
    if settings.s3_endpoint is None and client is None:
        return LocalStorage(settings.root / "objects")
    # boto3 takes a quarter of a second to import, and is an extra.
    from llm_platform.storage.s3 import S3Storage

    buckets = dict.fromkeys([settings.datasets_bucket, settings.artifacts_bucket])
    return S3Storage(client or s3_client(settings), tuple(buckets))


def s3_client(settings: Settings) -> Any:
    """A boto3 client with time limits and retries; without keys in the settings, boto3 looks for them where it always does."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=2,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 4},
        # Not every S3 server knows the newer checksums; ours go with the metadata.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Else presigned URLs of some regions have the old signature, which most other servers refuse.
        signature_version="s3v4",
        s3={"addressing_style": "path"},
    )
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key,
        config=config,
    )
