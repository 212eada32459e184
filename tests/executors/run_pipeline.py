"""A run worker of a test: `python -m tests.executors.run_pipeline CONFIG.json` runs that pipeline; it ends with 0 if that succeeded."""

from __future__ import annotations

import json
import signal
import sys
import warnings
from pathlib import Path

import dagster as dg

from llm_platform.specs import parse_pipeline, run_config, stages


def main(config: Path) -> int:
    warnings.simplefilter("ignore")  # Dagster's own use of pydantic names that pydantic calls deprecated
    from dagster_project.definitions import defs

    pipeline = parse_pipeline(json.loads(config.read_text()))
    run_id = pipeline.config.run_id
    assert run_id
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("run_id", [run_id])
        result = defs.resolve_job_def("pipeline").execute_in_process(
            run_config=run_config(pipeline),
            partition_key=run_id,
            asset_selection=[dg.AssetKey(stage) for stage in stages(pipeline)],
            instance=instance,
            raise_on_error=False,
        )
    return 0 if result.success else 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(Path(sys.argv[1])))
