"""Validation nodes in a real Dagster run, in process: their asset checks, the materialization, and what is stored."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from dagster_project import resources
from llm_platform import runlog
from llm_platform.agents import Platform
from llm_platform.specs import parse_pipeline, run_config

CSV = "question,answer,id\na?,1,7\nb?,2,7\nc,3,8\nd?,,9\ne?,5,10\n"
RULES: dict[str, Any] = {"columns": [{"column": "question", "pattern": r"\?$"}, {"column": "id", "type": "integer", "unique": True}]}


class Ran:
    """One run's result, and the platform that it ran on."""

    def __init__(self, result: dg.ExecuteInProcessResult, platform: Platform) -> None:
        self.success = result.success
        self.platform = platform
        self.evaluations = result.get_asset_check_evaluations()
        self.materialized = result.asset_materializations_for_node("validation.validation_collect")

    def checks(self) -> dict[str, dg.AssetCheckEvaluation]:
        """The last evaluation of each check, which covers every node."""
        return {evaluation.check_name: evaluation for evaluation in self.evaluations}


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ran]]:
    """Runs one dataset and validation nodes over it, as a pipeline config would."""
    monkeypatch.setenv("LLM_PLATFORM_HOME", str(tmp_path / "home"))
    resources.platform.cache_clear()
    platform = resources.platform()
    (tmp_path / "rows.csv").write_text(CSV)
    platform.storage.put_file(tmp_path / "rows.csv", "s3://datasets/rows.csv")

    def run(**nodes: dict[str, Any]) -> Ran:
        checks = [{"agent_name": name, "agent_class": "ValidationAgent", "config": config} for name, config in nodes.items()]
        source = {"agent_name": "rows", "agent_class": "DatasetAgent", "config": {"file_path": "s3://datasets/rows.csv"}}
        edges = [{"from_agent": "rows", "to_agent": name} for name in nodes]
        config = run_config(parse_pipeline({"nodes": [source, *checks], "edges": edges}))
        with warnings.catch_warnings(), dg.DagsterInstance.ephemeral() as instance:
            warnings.simplefilter("ignore")  # Dagster's own use of pydantic names that pydantic calls deprecated
            from dagster_project.definitions import defs

            instance.add_dynamic_partitions("run_id", ["r1"])
            result = defs.resolve_job_def("pipeline").execute_in_process(
                run_config=config,
                partition_key="r1",
                asset_selection=[dg.AssetKey("dataset"), dg.AssetKey("validation")],
                instance=instance,
                raise_on_error=False,
            )
            return Ran(result, platform)

    yield run
    platform.close()
    resources.platform.cache_clear()


def test_a_failed_node_fails_its_checks_and_the_stage(execute: Callable[..., Ran]) -> None:
    ran = execute(strict={"rules": RULES}, lenient={"rules": RULES, "on_error": "warn"})
    assert not ran.success
    assert ran.materialized == []
    checks = ran.checks()
    assert {name: (check.passed, check.severity.value) for name, check in checks.items()} == {
        "schema": (True, "ERROR"),
        "rules": (False, "ERROR"),
        "nulls": (False, "ERROR"),
        "duplicates": (True, "ERROR"),
    }
    assert {check.asset_key.to_user_string() for check in checks.values()} == {"validation"}
    metadata: Any = checks["rules"].metadata
    assert metadata["run_id"].value == "r1"
    assert [record.data for record in metadata["nodes"].records] == [
        {"node": "strict", "check": "rules", "passed": False, "severity": "ERROR", "failures": 2},
        {"node": "lenient", "check": "rules", "passed": False, "severity": "WARN", "failures": 2},
    ]
    assert [record.data for record in metadata["violations"].records][:2] == [
        {"node": "strict", "rule": "pattern", "column": "question", "violations": 1, "rows_dropped": 0},
        {"node": "strict", "rule": "unique", "column": "id", "violations": 1, "rows_dropped": 0},
    ]
    assert metadata["examples"].value["strict"][0] == {"rule": "unique", "column": "id", "row": 2, "value": "7"}
    failed = ran.platform.database.node("r1", "strict")
    assert failed is not None
    assert failed["error"]["error"] == "DATASET_ERROR"
    errors = failed["error"]["metadata"]["errors"]
    assert [(error["rule"], error["row"]) for error in errors] == [("unique", 2), ("pattern", 3), ("nulls", 4)]
    assert failed["result"]["artifacts"]["report"] == "s3://artifacts/r1/validation/strict"
    lenient = ran.platform.database.node("r1", "lenient")
    assert lenient is not None
    assert lenient["status"] == "completed"


def test_dropped_rows_are_warnings_and_are_told(execute: Callable[..., Ran]) -> None:
    ran = execute(check={"rules": RULES, "on_error": "drop"})
    assert ran.success
    assert {name: (check.passed, check.severity.value) for name, check in ran.checks().items()} == {
        "schema": (True, "WARN"),
        "rules": (False, "WARN"),
        "nulls": (False, "WARN"),
        "duplicates": (True, "WARN"),
    }
    (materialized,) = ran.materialized
    metadata = materialized.metadata
    assert metadata["dagster/row_count"].value == 2
    assert (metadata["check rows in"].value, metadata["check rows out"].value, metadata["check violations"].value) == (5, 2, 3)
    assert isinstance(metadata["check report"], dg.MarkdownMetadataValue)
    assert "| unique | id | 1 | 1 |" in str(metadata["check report"].value)
    address = str(metadata["check report files"].value)
    storage = ran.platform.storage
    files = {name: b"".join(storage.read_range(f"{address}/{name}")) for name in ("report.json", "report.md", "violations.parquet")}
    assert files["report.md"].decode() == metadata["check report"].value
    assert pq.read_table(io.BytesIO(files["violations.parquet"])).to_pylist() == [
        {"rule": "unique", "column": "id", "row": 2, "value": "7"},
        {"rule": "pattern", "column": "question", "row": 3, "value": "c"},
        {"rule": "nulls", "column": "answer", "row": 4, "value": None},
    ]
    node = ran.platform.database.node("r1", "check")
    assert node is not None
    kept = pq.read_table(io.BytesIO(b"".join(storage.read_range(node["result"]["artifacts"]["table"]))))
    assert kept["question"].to_pylist() == ["a?", "e?"]
    assert (node["result"]["data"]["rows"], node["result"]["metrics"]["violations"]) == (2, 3)
    told = [line["message"] for _, line in runlog.read(ran.platform.database, "r1") if line["message"].startswith("Dropped")]
    assert told == [
        "Dropped 1 rows: pattern in column 'question'",
        "Dropped 1 rows: unique in column 'id'",
        "Dropped 1 rows: nulls in column 'answer'",
    ]


def test_a_bad_pattern_is_a_failed_node_not_a_crash(execute: Callable[..., Ran]) -> None:
    ran = execute(check={"rules": {"columns": [{"column": "question", "pattern": "("}]}})
    assert not ran.success
    assert ran.evaluations == []
    node = ran.platform.database.node("r1", "check")
    assert node is not None
    assert node["error"]["error"] == "CONFIG_ERROR"
    assert node["error"]["metadata"]["errors"][0]["field"] == "rules.columns.0.pattern"
