"""What the platform's assets are partitioned by."""

import dagster as dg

RUN_ID_TAG = "llm_platform/run_id"

run_ids = dg.DynamicPartitionsDefinition(name="run_id")
dataset_ids = dg.DynamicPartitionsDefinition(name="dataset_id")
