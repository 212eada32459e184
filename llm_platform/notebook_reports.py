"""Reports outside of a job: a notebook on an uploaded dataset, or on a trained model, kept in the object store."""

from __future__ import annotations

import tempfile
from pathlib import Path

from llm_platform import notebooks
from llm_platform.agents.node import Platform
from llm_platform.agents.notebook import execute
from llm_platform.comparisons import newest
from llm_platform.errors import NotFound
from llm_platform.models import registered
from llm_platform.reporting import Reporter
from llm_platform.specs import NotebookConfig
from llm_platform.specs.results import NodeResult

FOLDER = "_reports"
"""In the artifacts bucket; no run id begins with an underscore."""


def dataset_report(dataset_id: str, config: NotebookConfig, platform: Platform, reporter: Reporter) -> NodeResult:
    """Runs a notebook with the dataset's table as `table_path`. Raises NotFound, and as `notebooks.run` does."""
    row = platform.database.dataset(dataset_id)
    if row is None:
        raise NotFound(f"There is no dataset '{dataset_id}'", dataset_id=dataset_id)
    table = platform.storage.as_local(row["table_path"], platform.settings.work / "inputs")
    return _report(f"datasets/{dataset_id}", {"table_path": str(table), "dataset_id": dataset_id}, config, platform, reporter)


def model_report(model_id: str, config: NotebookConfig, platform: Platform, reporter: Reporter) -> NodeResult:
    """Runs a notebook with the model's newest evaluation and, where it was exported, its adapter.

    Raises NotFound, InvalidConfig for a model that was not evaluated, and as `notebooks.run` does.
    """
    model = registered(model_id, platform.registry)
    wanted = notebooks.parameters_of(config.notebook, platform.settings, platform.storage)
    inputs = platform.settings.work / "inputs"
    given = {"model_id": model_id, "base_model": model.base_model}
    if wanted.keys() & {"examples_path", "evaluation_path"}:
        folder = platform.storage.as_local(newest(model), inputs)
        given |= {"examples_path": str(folder / "examples.parquet"), "evaluation_path": str(folder / "evaluation.json")}
    if "adapter_path" in wanted and "adapter" in model.exports:
        given["adapter_path"] = str(platform.storage.as_local(model.exports["adapter"], inputs))
    return _report(f"models/{model_id}", given, config, platform, reporter)


def _report(key: str, given: dict[str, str], config: NotebookConfig, platform: Platform, reporter: Reporter) -> NodeResult:
    wanted = notebooks.parameters_of(config.notebook, platform.settings, platform.storage)
    home = f"s3://{platform.settings.artifacts_bucket}/{FOLDER}/{key}"
    with tempfile.TemporaryDirectory(prefix="report-", suffix=".tmp", dir=platform.settings.work) as scratch:
        return execute(config, {name: value for name, value in given.items() if name in wanted}, home, Path(scratch), platform, reporter)
