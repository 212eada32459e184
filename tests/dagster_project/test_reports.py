"""Reports and the weekly schedule, as Dagster runs them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import nbformat
import pytest

from llm_platform.agents import Platform
from llm_platform.errors import InvalidConfig, PlatformError
from llm_platform.settings import Settings
from llm_platform.specs import parse_pipeline, run_config, stages

CSV = "question,answer\n" + "".join(f"What is {n} plus 1?,{n + 1}\n" for n in range(30))


@contextmanager
def quiet() -> Iterator[None]:
    """Dagster's own use of pydantic names that pydantic calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("platform")
    folder = home / "notebooks"
    folder.mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('table_path = ""\nlimit = 3', metadata={"tags": ["parameters"]})])
    notebook.cells.append(
        nbformat.v4.new_code_cell("import polars as pl\nprint(pl.read_parquet(table_path).height, 'rows, limit', limit)\n1 / limit")
    )
    nbformat.write(notebook, folder / "count_rows.ipynb")
    made = Platform.from_settings(Settings(home=home / "home", cache=home / "cache", notebook_roots=[folder]))
    (home / "rows.csv").write_text(CSV)
    made.storage.put_file(home / "rows.csv", "s3://datasets/rows.csv")
    upload(made, home)
    yield made
    made.close()


def upload(platform: Platform, home: Path) -> None:
    import polars as pl

    pl.read_csv(home / "rows.csv").write_parquet(home / "table.parquet")
    table = platform.storage.put_file(home / "table.parquet", "s3://artifacts/cache/tables/rows.parquet")
    row = {"dataset_id": "ds_1", "filename": "rows.csv", "format": "csv", "size_bytes": len(CSV), "sha256": table.sha256}
    platform.database.add_dataset(**row, s3_path="s3://datasets/rows.csv", table_path=table.address, profile={})


@pytest.fixture
def resources(services: Platform) -> dict[str, Any]:
    with quiet():
        from dagster_project.resources import PlatformResource

        class Made(PlatformResource):
            def get(self) -> Platform:
                return services

        return {"platform": Made()}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with quiet():
        made = dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster")))
        made.add_dynamic_partitions("dataset_id", ["ds_1", "ds_2"])
    yield made
    with quiet():
        made.dispose()


def materialize(
    instance: dg.DagsterInstance, resources: dict[str, Any], partition: str = "ds_1", **config: Any
) -> dg.ExecuteInProcessResult:
    with quiet():
        from dagster_project.defs.reports import dataset_report
        from dagster_project.defs.uploads import uploaded_dataset

        return dg.materialize(
            [uploaded_dataset, dataset_report],
            selection=[dataset_report],
            partition_key=partition,
            instance=instance,
            resources=resources,
            run_config={"ops": {"dataset_report": {"config": {"notebook": "count_rows", **config}}}},
            raise_on_error=False,
        )


def test_a_report_on_a_dataset(instance: dg.DagsterInstance, resources: dict[str, Any], services: Platform) -> None:
    result = materialize(instance, resources, parameters={"limit": 5})
    assert result.success
    (made,) = result.asset_materializations_for_node("dataset_report")
    assert made.partition == "ds_1"
    home = "s3://artifacts/_reports/datasets/ds_1/count_rows"
    assert made.metadata["notebook address"].value == f"{home}.ipynb" and made.metadata["html address"].value == f"{home}.html"
    shown = made.metadata["notebook"]
    assert isinstance(shown, dg.NotebookMetadataValue)
    notebook = nbformat.read(str(shown.path), as_version=4)
    assert "30 rows, limit 5" in str(notebook.cells[-1].outputs)
    page = b"".join(services.storage.read_range(f"{home}.html")).decode()
    assert "30 rows, limit 5" in page and str(services.settings.root) not in page
    assert [path.name for path in services.settings.work.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize(
    ("config", "partition", "says"),
    [
        ({"notebook": "nothing"}, "ds_1", "Unknown notebook 'nothing'"),
        ({"notebook": "../count_rows"}, "ds_1", "notebook: String should match"),
        ({"parameters": {"limit": "5"}}, "ds_1", "must be int, not str '5'"),
        ({"timeout": 0}, "ds_1", "timeout: Input should be greater than or equal to 1"),
        ({}, "ds_2", "There is no dataset 'ds_2'"),
        ({"parameters": {"limit": 0}}, "ds_1", "failed in cell 3: ZeroDivisionError"),
    ],
)
def test_a_report_that_cannot_be_made_says_why(
    instance: dg.DagsterInstance, resources: dict[str, Any], config: dict[str, Any], partition: str, says: str
) -> None:
    result = materialize(instance, resources, partition, **config)
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    error = failed.step_failure_data.error
    assert error is not None and says in error.message


PIPELINE: dict[str, Any] = {
    "nodes": [
        {"agent_name": "rows", "agent_class": "DatasetAgent", "config": {"file_path": "s3://datasets/rows.csv"}},
        {"agent_name": "report", "agent_class": "NotebookAgent", "config": {"notebook": "explore_dataset"}},
    ],
    "edges": [{"from_agent": "rows", "to_agent": "report"}],
}


def tick(instance: dg.DagsterInstance, resources: dict[str, Any]) -> dg.RunRequest | dg.SkipReason:
    instance.delete_dynamic_partition("run_id", "weekly-2026-11-30")
    with quiet():
        from dagster_project.definitions import defs

        schedule = defs.resolve_schedule_def("weekly_finetuning")
        assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
        at = datetime(2026, 11, 30, 3, tzinfo=UTC)
        with dg.build_schedule_context(
            instance=instance, scheduled_execution_time=at, resources=resources, repository_def=defs.get_repository_def()
        ) as context:
            data = schedule.evaluate_tick(context)
    if data.run_requests:
        return data.run_requests[0]
    return dg.SkipReason(data.skip_message)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_weekly_run_is_the_pipeline_that_lies_there(
    instance: dg.DagsterInstance, resources: dict[str, Any], services: Platform, wrapped: bool
) -> None:
    body = {"pipeline_config": {**PIPELINE, "run_id": "mine"}} if wrapped else PIPELINE
    services.storage.put_bytes(json.dumps(body).encode(), "s3://datasets/weekly/pipeline.json")
    request = tick(instance, resources)
    assert isinstance(request, dg.RunRequest)
    pipeline = parse_pipeline(PIPELINE)
    assert request.run_key == request.partition_key == "weekly-2026-11-30" and instance.has_dynamic_partition("run_id", "weekly-2026-11-30")
    assert request.tags["llm_platform/run_id"] == "weekly-2026-11-30"
    assert request.run_config == run_config(pipeline)
    assert [key.path[-1] for key in request.asset_selection or []] == stages(pipeline) == ["dataset", "notebook_reports"]


def test_without_a_pipeline_nothing_runs(instance: dg.DagsterInstance, resources: dict[str, Any], services: Platform) -> None:
    services.storage.delete("s3://datasets/weekly/pipeline.json")
    skipped = tick(instance, resources)
    assert isinstance(skipped, dg.SkipReason) and "There is no pipeline config at s3://datasets/weekly/pipeline.json" in (
        skipped.skip_message or ""
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no json", "is no JSON"),
        ("[]", "Input validation failed"),
        (json.dumps(PIPELINE).replace("rows.csv", "none.csv"), "There is no file at"),
    ],
)
def test_a_pipeline_that_no_job_would_be_accepted_with_fails_the_tick(
    instance: dg.DagsterInstance, resources: dict[str, Any], services: Platform, content: str, says: str
) -> None:
    services.storage.put_bytes(content.encode(), "s3://datasets/weekly/pipeline.json")
    with pytest.raises(Exception, match="weekly_finetuning") as caught:
        tick(instance, resources)
    assert isinstance(caught.value.__cause__, PlatformError | InvalidConfig) and says in caught.value.__cause__.message
    assert not instance.has_dynamic_partition("run_id", "weekly-2026-11-30")
