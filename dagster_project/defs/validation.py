"""The stage `validation`, and its asset checks.

The checks are evaluated by the step of each node as soon as its report is there, so that a failed one shows in the
catalog although the stage then has no materialization. The definition below says again what the newest run's reports say.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from dagster_project.defs.dataset import dataset
from dagster_project.resources import PlatformResource
from dagster_project.stage import Described, stage_asset
from llm_platform.agents import Node, Platform
from llm_platform.specs import AgentClass
from llm_platform.specs.results import NodeResult

CHECKS = ("schema", "rules", "nulls", "duplicates")
KEY = dg.AssetKey("validation")
VIOLATIONS = dg.TableSchema(
    [
        dg.TableColumn("node"),
        dg.TableColumn("rule"),
        dg.TableColumn("column"),
        dg.TableColumn("violations", "int"),
        dg.TableColumn("rows_dropped", "int"),
    ]
)


def _describe(_platform: Platform, results: dict[str, NodeResult]) -> Described:
    from llm_platform.data.validation_report import ValidationReport

    records: list[dg.TableRecord] = []
    described: dict[str, Any] = {}
    for name, result in results.items():
        report = ValidationReport.model_validate(result.data["report"])
        records += [dg.TableRecord({"node": name, **_outcome(check.model_dump())}) for check in report.checks]
        described[f"{name} report"] = dg.MetadataValue.md(report.to_markdown())
        described[f"{name} report files"] = result.artifacts["report"]
        described |= {f"{name} rows in": report.rows_in, f"{name} rows out": report.rows_out, f"{name} violations": report.violations}
    rows = sum(int(result.metrics["rows_out"]) for result in results.values())
    return {"checks": dg.MetadataValue.table(records), "dagster/row_count": rows, **described}


def _outcome(check: dict[str, Any]) -> dict[str, Any]:
    return {"check": check["name"], **{name: check[name] for name in ("passed", "severity", "failures")}}


def _reports(platform: Platform, run_id: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The check results of the run's validation nodes so far: check name -> node name -> result."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in CHECKS}
    for row in platform.database.nodes([run_id])[run_id]:
        if row["agent_class"] == AgentClass.VALIDATION and row["result"] is not None:
            for check in row["result"]["data"]["report"]["checks"]:
                found[check["name"]][row["agent_name"]] = check
    return found


def _evaluations(platform: Platform, run_id: str) -> Iterator[dict[str, Any]]:
    """One evaluation per check: a node that failed it makes it fail, whichever node ran last."""
    for name, by_node in _reports(platform, run_id).items():
        if not by_node:
            continue
        failed = {node: check for node, check in by_node.items() if not check["passed"]}
        severe = any(check["severity"] == "ERROR" for check in (failed or by_node).values())
        yield {
            "check_name": name,
            "passed": not failed,
            "severity": dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN,
            "description": "; ".join(f"{node}: {check['message']}" for node, check in (failed or by_node).items()),
            "metadata": {
                "run_id": run_id,
                "nodes": dg.MetadataValue.table([dg.TableRecord({"node": node, **_outcome(c)}) for node, c in by_node.items()]),
                "violations": dg.MetadataValue.table(
                    [
                        dg.TableRecord({"node": n, **{name: "" if value is None else value for name, value in count.items()}})
                        for n, c in failed.items()
                        for count in c["counts"]
                    ],
                    schema=VIOLATIONS,
                ),
                "examples": dg.MetadataValue.json({node: check["examples"] for node, check in failed.items()}),
            },
        }


def _observe(context: dg.OpExecutionContext, platform: Platform, node: Node) -> None:
    for evaluation in _evaluations(platform, node.run_id):
        # Its signature does not name check evaluations; its body takes them.
        context.log_event(dg.AssetCheckEvaluation(asset_key=KEY, **evaluation))  # pyright: ignore[reportArgumentType]


validation = stage_asset(AgentClass.VALIDATION, after=[dataset], describe=_describe, observe=_observe)


@dg.multi_asset_check(
    name="validation_checks",
    specs=[dg.AssetCheckSpec(name, asset=KEY, description=f"Per node: {name}.") for name in CHECKS],
)
def validation_checks(platform: PlatformResource) -> Iterator[dg.AssetCheckResult]:
    run_id = platform.get().database.last_run_of(AgentClass.VALIDATION)
    if run_id is None:
        raise dg.Failure("No run has validated anything yet", allow_retries=False)
    for evaluation in _evaluations(platform.get(), run_id):
        yield dg.AssetCheckResult(asset_key=KEY, **evaluation)
