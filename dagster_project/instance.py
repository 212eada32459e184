"""Opens Dagster's instance once before a Dagster service runs: `python -m dagster_project.instance MODULE ARGUMENT...`

On a fresh home several services would make Dagster's tables at the same time. Here each takes its turn, and the first one makes
them, or brings those of an earlier version of Dagster up to date.
"""

from __future__ import annotations

import runpy
import sys

import dagster
from dagster import DagsterInstance

from llm_platform.dagster_opening import opening_dagster
from llm_platform.settings import Settings


def main() -> None:
    settings = Settings()
    with opening_dagster(settings):
        migrated = settings.dagster_home / "version"
        # Of the version that last brought the tables up to date: looking takes a second.
        is_current = migrated.exists() and migrated.read_text() == dagster.__version__
        is_new = settings.dagster_database_url is None and not (settings.dagster_home / "history").exists()
        with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
            if not is_current and not is_new:
                instance.upgrade()
            instance.get_runs_count()
            instance.get_daemon_heartbeats()
            instance.all_instigator_state()
        if not is_current:
            migrated.write_text(dagster.__version__)
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
