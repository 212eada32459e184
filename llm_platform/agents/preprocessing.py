"""PreprocessingAgent: from rows to token ids and loss masks, computed once for the same inputs and config."""

from __future__ import annotations

from llm_platform.agents.node import Node, Platform, Work
from llm_platform.specs import AgentClass, PreprocessingConfig
from llm_platform.specs.results import NodeResult
from llm_platform.training import base_model


def tokenizer_is_ready(platform: Platform, node: Node) -> bool:
    """Whether the base model's files are on this machine, so that no download or build is needed."""
    assert isinstance(node.config, PreprocessingConfig)
    return base_model.is_ready(node.config.base_model, platform.settings)


def run_preprocessing(work: Work) -> NodeResult:
    """The splits folder (train, validation and test Parquet) in `artifacts.splits`; the report in `data.report`."""
    from llm_platform.data.engine import engine_from
    from llm_platform.data.preprocess import preprocess, preprocessing_key
    from llm_platform.data.report import read_report

    config = work.node.config
    assert isinstance(config, PreprocessingConfig)
    platform, reporter = work.platform, work.reporter
    inputs = work.of(AgentClass.DATASET, AgentClass.VALIDATION)
    base = base_model.resolve(config.base_model, platform.settings, reporter)
    tables = [platform.storage.as_local(item.result.artifacts["table"], platform.settings.work / "inputs") for item in inputs]
    names = [item.agent_name for item in inputs]
    key = preprocessing_key(tables, config, base, names)
    address = f"s3://{platform.settings.artifacts_bucket}/cache/splits/{key}"
    reused = platform.storage.exists(address)
    if reused:
        reporter.info("The same rows were preprocessed the same way before; the splits are used")
    else:
        with work.node.scratch(platform) as scratch:
            preprocess(tables, config, base, scratch / "splits", reporter, names=names, engine=engine_from(platform.settings))
            platform.storage.put_folder(scratch / "splits", address)
    local = platform.storage.as_local(address, platform.settings.work / "inputs")
    report = read_report(local)
    rows = report.splits
    reporter.info(f"Splits: {rows['train']} rows to train on, {rows['validation']} to validate, {rows['test']} to test", **rows)
    return NodeResult(
        artifacts={"splits": address},
        datasets=list(dict.fromkeys(name for item in inputs for name in item.result.datasets)),
        metrics={f"{name}_rows": count for name, count in rows.items()},
        reused=reused,
        data={
            "report": report.model_dump(mode="json"),
            "digest": key,
            "base_model": config.base_model,
            "config": config.model_dump(mode="json"),
            "sources": [
                {name: item.result.data.get(name) for name in ("source", "dataset_id", "digest", "rows", "file")}
                | {"address": item.result.artifacts["table"]}
                for item in inputs
            ],
        },
    )
