"""A supervisor over stand-in services, as a program: `python supervisor_host.py HOME SERVICES` (a JSON list of their fields).

It writes what its watcher hears as JSON lines to standard output.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from llm_platform.errors import PlatformError
from llm_platform.supervisor.home import Home
from llm_platform.supervisor.service import Child, Service
from llm_platform.supervisor.supervisor import Supervisor


class Printer:
    """A `Watcher` for another program."""

    interval = None

    def ready(self, child: Child) -> None:
        assert child.process is not None
        self._print(event="ready", name=child.service.name, pid=child.process.pid, restarts=child.restarts)

    def ended(self, child: Child, code: int, restart_in: float) -> None:
        self._print(event="ended", name=child.service.name, code=code, restart_in=restart_in)

    def stopping(self) -> None:
        self._print(event="stopping")

    def tick(self) -> None:
        """Nothing to do between events."""

    def _print(self, **event: object) -> None:
        print(json.dumps(event), flush=True)


def main() -> int:
    services = [Service(**service) for service in json.loads(sys.argv[2])]
    try:
        with Home(Path(sys.argv[1])) as home:
            return Supervisor(home, services, environment=dict(os.environ), watcher=Printer()).run()
    except PlatformError as error:
        print(error.message, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
