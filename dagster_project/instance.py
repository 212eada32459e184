"""Opens Dagster's instance once before a Dagster service runs: `python -m dagster_project.instance MODULE ARGUMENT...`

On a fresh home several services would make Dagster's SQLite tables at the same time, and their migrations then end with
two heads, after which nothing starts any more. Here each takes its turn, and the first one makes them.
"""

from __future__ import annotations

import runpy
import sys

from dagster import DagsterInstance
from filelock import FileLock

from llm_platform.settings import Settings


def main() -> None:
    settings = Settings()
    with FileLock(settings.dagster_lock), DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        instance.get_runs_count()
        instance.get_daemon_heartbeats()
        instance.all_instigator_state()
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
