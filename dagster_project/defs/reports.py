"""Notebooks on a dataset or a model, by hand from the launchpad: each a materialization that shows the notebook as it ran."""

from typing import Any

import dagster as dg
from pydantic import Field

from dagster_project.defs.partitions import dataset_ids
from dagster_project.defs.uploads import uploaded_dataset
from dagster_project.resources import PlatformResource
from llm_platform.agents import Platform
from llm_platform.errors import PlatformError
from llm_platform.notebook_reports import dataset_report as report_dataset
from llm_platform.notebook_reports import model_report as report_model
from llm_platform.reporting import ConsoleReporter
from llm_platform.specs import NotebookConfig
from llm_platform.specs.base import problems
from llm_platform.specs.results import NodeResult


class DatasetReportConfig(dg.Config):
    """Which notebook, and what it is given beside the dataset."""

    notebook: str = Field(default="explore_dataset", description="Name of an allowed notebook, without .ipynb.")
    parameters: dict[str, Any | None] = Field(default={}, description="Values for the notebook's parameters cell.")
    timeout: int = Field(default=600, description="Seconds the whole notebook may take.")
    memory_mb: int | None = Field(default=None, description="MiB of memory the kernel and its processes may have.")


class ModelReportConfig(DatasetReportConfig):
    """The same for a model."""

    model_id: str = Field(description="A trained model, such as model_abc123.")
    notebook: str = Field(default="evaluate_model", description="Name of an allowed notebook, without .ipynb.")


class _Logged(ConsoleReporter):
    """Lines go to the step's log in the Dagster UI."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self._log = log

    def info(self, message: str, **data: Any) -> None:
        self._log.info(message)

    def warn(self, message: str, **data: Any) -> None:
        self._log.warning(message)

    def error(self, message: str, **data: Any) -> None:
        self._log.error(message)

    def progress(self, done: int, total: int, what: str) -> None:
        self._log.info(f"{what}: {done} of {total}")


@dg.asset(
    partitions_def=dataset_ids,
    deps=[uploaded_dataset],
    group_name="reports",
    kinds={"jupyter"},
    description="A notebook on an uploaded dataset: what is in it, and what training on it would cost.",
)
def dataset_report(context: dg.AssetExecutionContext, config: DatasetReportConfig, platform: PlatformResource) -> dg.MaterializeResult[Any]:
    services = platform.get()
    spec = _spec(config.model_dump())
    try:
        return _shown(services, report_dataset(context.partition_key, spec, services, _Logged(context.log)))
    except PlatformError as error:
        raise _failure(error) from error


@dg.asset(
    group_name="reports",
    kinds={"jupyter"},
    description="A notebook on a trained model: how good it is, and where it fails.",
)
def model_report(context: dg.AssetExecutionContext, config: ModelReportConfig, platform: PlatformResource) -> dg.MaterializeResult[Any]:
    services = platform.get()
    spec = _spec({name: value for name, value in config.model_dump().items() if name != "model_id"})
    try:
        return _shown(services, report_model(config.model_id, spec, services, _Logged(context.log)), model_id=config.model_id)
    except PlatformError as error:
        raise _failure(error) from error


def _spec(given: dict[str, Any]) -> NotebookConfig:
    """The config with the bounds that Dagster's cannot express."""
    if found := problems(NotebookConfig, given):
        raise dg.Failure("; ".join(f"{item['field']}: {item['message']}" for item in found), allow_retries=False)
    return NotebookConfig.model_validate(given)


def _shown(platform: Platform, result: NodeResult, **more: str) -> dg.MaterializeResult[Any]:
    local = platform.storage.as_local(result.artifacts["notebook"], platform.settings.work / "inputs")
    described = {f"{kind} address": address for kind, address in result.artifacts.items()}
    seconds = result.metrics["notebook_seconds"]
    return dg.MaterializeResult(metadata={"notebook": dg.MetadataValue.notebook(str(local)), "seconds": seconds, **described, **more})


def _failure(error: PlatformError) -> dg.Failure:
    return dg.Failure(error.message, metadata={"error": error.code}, allow_retries=False)
