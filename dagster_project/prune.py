"""What `llm-platform prune` runs: `python -m dagster_project.prune DAYS [--yes]`; the result as JSON on standard output."""

from __future__ import annotations

import sys

from dagster import DagsterInstance

from dagster_project.resources import storage_for
from dagster_project.retention import prune
from llm_platform.agents import Platform
from llm_platform.dagster_opening import opening_dagster
from llm_platform.errors import PlatformError
from llm_platform.settings import Settings


def main() -> int:
    days, *options = sys.argv[1:]
    settings = Settings()
    platform = Platform.from_settings(settings, storage_for(settings))
    try:
        with opening_dagster(settings):
            instance = DagsterInstance.from_config(str(settings.dagster_home))
        with instance:
            found = prune(platform, instance, float(days), dry_run="--yes" not in options)
    except PlatformError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        return 1
    finally:
        platform.close()
    print(found.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
