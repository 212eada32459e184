"""Uploaded datasets: made by the API, shown in the catalog as materializations by dataset id."""

import dagster as dg

from dagster_project.defs.partitions import dataset_ids

uploaded_dataset = dg.AssetSpec(
    "uploaded_dataset",
    description="Files that were uploaded over the REST API, with a preview and a length histogram.",
    partitions_def=dataset_ids,
    group_name="datasets",
    kinds={"parquet"},
)
