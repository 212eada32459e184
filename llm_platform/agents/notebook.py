"""NotebookAgent: runs a notebook on the results of other nodes and keeps it as it ran."""

from __future__ import annotations

from pathlib import Path

from llm_platform.agents.node import Work
from llm_platform.specs import AgentClass, NotebookConfig
from llm_platform.specs.results import NodeResult


def run_notebook(work: Work) -> NodeResult:
    """The executed notebook in `artifacts.notebook` (ipynb) and `artifacts.html`."""
    from llm_platform import notebooks

    config = work.node.config
    assert isinstance(config, NotebookConfig)
    platform, node, reporter = work.platform, work.node, work.reporter
    offered = _offered(work)
    wanted = notebooks.parameters_of(config.notebook, platform.settings)
    parameters = {name: value for name, value in offered.items() if name in wanted} | dict(config.parameters)
    home = f"s3://{platform.settings.artifacts_bucket}/{node.run_id}/notebooks/{node.agent_name}"
    with node.scratch(platform) as scratch:
        out = scratch / f"{config.notebook}.ipynb"
        try:
            run = notebooks.run(config.notebook, parameters, out, reporter, config.timeout, platform.settings)
        except Exception:
            if out.exists():  # how far it came is what explains the failure
                kept = platform.storage.put_file(out, f"{home}/{out.name}")
                node.partial = NodeResult(artifacts={"notebook": kept.address})
            raise
        ipynb = platform.storage.put_file(run.ipynb, f"{home}/{out.name}")
        html = platform.storage.put_file(run.html, f"{home}/{config.notebook}.html")
    reporter.info(f"Notebook {config.notebook} ran in {run.seconds:.1f} s", address=ipynb.address)
    return NodeResult(
        artifacts={"notebook": ipynb.address, "html": html.address},
        metrics={"notebook_seconds": run.seconds},
        data={"notebook": config.notebook, "parameters": dict(config.parameters), "cells": run.cells},
    )


def _offered(work: Work) -> dict[str, str]:
    """What a notebook may ask for, by parameter name: local paths of upstream artifacts and the ids of what was made."""
    inputs = work.platform.settings.work / "inputs"
    offered: dict[str, str] = {"run_id": work.node.run_id}

    def local(address: str) -> Path:
        return work.platform.storage.as_local(address, inputs)

    for source in work.upstream.values():
        artifacts = source.result.artifacts
        if source.agent_class is AgentClass.EVALUATION:
            folder = local(next(iter(artifacts.values())))
            offered |= {"examples_path": str(folder / "examples.parquet"), "evaluation_path": str(folder / "evaluation.json")}
        elif source.agent_class is AgentClass.PREPROCESSING:
            offered["splits_path"] = str(local(artifacts["splits"]))
        elif "table" in artifacts:
            offered["table_path"] = str(local(artifacts["table"]))
        if source.result.model_ids:
            offered["model_id"] = source.result.model_ids[0]
    return offered
