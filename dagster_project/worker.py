"""The process of one heavy node, started with Dagster Pipes: `python -m dagster_project.worker`, or a fork of `node_workers`.

The only place where dagster_pipes and the library meet; what it calls knows nothing of Dagster.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from dagster_project.zygote import die_with_parent, leave, show_name

COMMAND = [sys.executable, "-m", "dagster_project.worker"]
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP's threads spin while they wait, by default: two trainings on one machine then take five times as long (measured)."""
PARENT = "LLM_PLATFORM_PARENT"
NAME = "llm-node"
"""What `ps` and `top` show as the name of such a process."""


def main() -> int:
    die_with_parent(int(os.environ.get(PARENT, os.getppid())))
    show_name(NAME)
    signal.signal(signal.SIGTERM, _cancel)
    signal.signal(signal.SIGINT, _cancel)

    from llm_platform.training.devices import is_beside

    if is_beside():
        return _beside()

    from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes

    if DAGSTER_PIPES_CONTEXT_ENV_VAR not in os.environ:
        # Outside a Pipes session open_dagster_pipes() returns a mock on which everything silently succeeds.
        print("This is started by the platform's Dagster assets; to train by hand use: llm-platform train --help", file=sys.stderr)
        return 2

    from llm_platform.agents import Node, Platform, run_node
    from llm_platform.errors import Cancelled, PlatformError
    from llm_platform.runlog import RunLogReporter
    from llm_platform.settings import Settings

    with open_dagster_pipes() as pipes:
        node = Node.from_dict(pipes.get_extra("node"))
        platform = Platform.from_settings(Settings())

        def forward(level: str, message: str) -> None:
            log = {"WARN": pipes.log.warning, "ERROR": pipes.log.error}.get(level, pipes.log.info)
            log(f"[{node.agent_name}] {message}")

        with RunLogReporter(platform.database, node.run_id, node.agent_class.value, node.agent_name, forward) as reporter:
            try:
                run_node(platform, node, reporter)
            except PlatformError:
                return 1
            except Cancelled:
                reporter.warn("Cancelled")
                return 130
            finally:
                platform.close()
    return 0


def _beside() -> int:
    from llm_platform.agents import help_train
    from llm_platform.errors import Cancelled, PlatformError
    from llm_platform.settings import Settings

    try:
        help_train(Settings())
    except PlatformError as error:  # rank 0 tells it
        print(error.message, file=sys.stderr)
        return 1
    except Cancelled:
        return 130
    return 0


def _cancel(_signal: int, _frame: FrameType | None) -> None:
    from llm_platform.errors import Cancelled

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # cleaning up must not be interrupted again; KILL follows if it takes long
    raise Cancelled


if __name__ == "__main__":
    leave(main)
