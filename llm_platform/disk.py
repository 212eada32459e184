"""Whether the home folder's disk has room for more work: what would fill it is refused before it fails in the middle."""

from __future__ import annotations

import shutil

from llm_platform.errors import ServiceUnavailable
from llm_platform.settings import Settings


def free_bytes(settings: Settings) -> int:
    """Bytes that the platform can still write below its home folder, where work in progress lies too."""
    return shutil.disk_usage(settings.root).free


def check(settings: Settings) -> None:
    """Raises ServiceUnavailable where fewer bytes are free than `min_free_bytes`."""
    if settings.min_free_bytes and free_bytes(settings) < settings.min_free_bytes:
        raise ServiceUnavailable("The platform's disk is nearly full; uploads and new jobs are refused until the operator has made room")
