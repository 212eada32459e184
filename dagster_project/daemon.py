"""Dagster's daemon, which first takes over the runs that one before it launched: `python -m dagster_project.daemon run -w FILE`."""

from __future__ import annotations

import runpy

from dagster import DagsterInstance

from dagster_project.launcher import LocalRunLauncher
from llm_platform.settings import Settings


def main() -> None:
    with DagsterInstance.from_config(str(Settings().dagster_home)) as instance:
        if isinstance(instance.run_launcher, LocalRunLauncher):
            instance.run_launcher.take_over()
        runpy.run_module("dagster._daemon", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
