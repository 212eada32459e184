"""Content addresses: the same inputs, config and code have the same digest, on any machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CODE_VERSION = "data-2"
"""Part of every content-addressed key. Raise it when the same inputs and config would give other rows or tokens."""


def digest(*parts: str | bytes | Path | Mapping[str, Any]) -> str:
    """Hex SHA-256 of the parts in order: a text, bytes, a JSON-able mapping (key order is of no account), a file's content.

    Each part counts with its kind and length, so that no two different lists of parts run together.
    """
    found = hashlib.sha256()
    for part in parts:
        kind, content = _content(part)
        found.update(f"{kind}:{len(content)}:".encode())
        found.update(content)
    return found.hexdigest()


def _content(part: str | bytes | Path | Mapping[str, Any]) -> tuple[str, bytes]:
    if isinstance(part, str):
        return "text", part.encode("utf-8")
    if isinstance(part, bytes):
        return "bytes", part
    if isinstance(part, Path):
        with part.open("rb") as file:
            return "file", hashlib.file_digest(file, "sha256").digest()
    text = json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "json", text.encode("utf-8")
