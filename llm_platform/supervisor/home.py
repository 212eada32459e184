"""A home folder belongs to one supervisor at a time; and the file in which others find its processes."""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from llm_platform.errors import Conflict
from llm_platform.supervisor.sweep import sweep


class Home:
    """A home folder, locked for one supervisor while its block runs. Taking it ends what a killed supervisor left behind.

    The block must leave no process of the instance.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.instance = uuid.uuid4().hex
        self.logs = path / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.services_file = path / "services.json"
        self._lock = -1

    def __enter__(self) -> Self:
        self._lock = os.open(self.path / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._read().get("pid", "?")
            os.close(self._lock)
            raise Conflict(
                f"A platform already runs on {self.path} (process {holder}). Stop it, or choose another folder with --home.", pid=holder
            ) from None
        if leftover := self._read().get("instance"):
            sweep(leftover)
        self.services_file.unlink(missing_ok=True)
        self._write(json.dumps({"pid": os.getpid(), "instance": self.instance}))
        return self

    def __exit__(self, *_: object) -> None:
        self.services_file.unlink(missing_ok=True)
        self._write("")
        os.close(self._lock)

    def publish(self, services: Mapping[str, Any]) -> None:
        """Replaces the services file at once, so that a reader sees the old one or the new one."""
        temporary = self.services_file.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(services, indent=2) + "\n")
        temporary.replace(self.services_file)

    def _read(self) -> dict[str, Any]:
        text = os.pread(self._lock, 4096, 0)
        try:
            content = json.loads(text)
        except ValueError:  # empty, or a supervisor was killed while it wrote
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, text: str) -> None:
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, text.encode(), 0)
