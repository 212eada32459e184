"""NotebookAgent: runs a notebook on the results of other nodes and keeps it as it ran."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm_platform.agents.node import Platform, Upstream, Work
from llm_platform.errors import PlatformError
from llm_platform.reporting import Reporter
from llm_platform.specs import AgentClass, NotebookConfig
from llm_platform.specs.results import NodeResult


def run_notebook(work: Work) -> NodeResult:
    """The executed notebook in `artifacts.notebook` (ipynb) and `artifacts.html`."""
    from llm_platform import notebooks

    config = work.node.config
    assert isinstance(config, NotebookConfig)
    platform, node = work.platform, work.node
    home = f"s3://{platform.settings.artifacts_bucket}/{node.run_id}/notebooks/{node.agent_name}"
    wanted = notebooks.parameters_of(config.notebook, platform.settings, platform.storage)
    offered = _offered(work)
    given = {name: value() for name, value in offered.items() if name in wanted and name not in config.parameters}
    with node.scratch(platform) as scratch:
        try:
            return execute(config, given, home, scratch, platform, work.reporter)
        except PlatformError:
            node.partial = _kept(config, scratch, home, platform)
            raise


def execute(
    config: NotebookConfig, given: Mapping[str, str], home: str, scratch: Path, platform: Platform, reporter: Reporter
) -> NodeResult:
    """Runs a notebook in the folder `scratch` and keeps it, and its HTML, below the address `home`.

    `given` are parameters that the platform hands in. Raises as `notebooks.run`; what had run by then is in `scratch`.
    """
    from llm_platform import notebooks

    out = scratch / f"{config.notebook}.ipynb"
    parameters = {**given, **config.parameters}
    settings, storage = platform.settings, platform.storage
    run = notebooks.run(config.notebook, parameters, out, reporter, config.timeout, settings, config.memory_mb, storage)
    kept = _kept(config, scratch, home, platform)
    address = kept.artifacts["notebook"]
    reporter.info(f"Notebook {config.notebook} ran in {run.seconds:.1f} s", address=address)
    return kept.model_copy(update={"metrics": {"notebook_seconds": run.seconds}, "data": {**kept.data, "cells": run.cells}})


def _kept(config: NotebookConfig, scratch: Path, home: str, platform: Platform) -> NodeResult:
    """The files that an execution left behind, stored: of a failed one, how far it came is what explains the failure."""
    files = {"notebook": scratch / f"{config.notebook}.ipynb", "html": scratch / f"{config.notebook}.html"}
    artifacts = {kind: platform.storage.put_file(path, f"{home}/{path.name}").address for kind, path in files.items() if path.exists()}
    return NodeResult(artifacts=artifacts, data={"notebook": config.notebook, "parameters": dict(config.parameters)})


Offer = Callable[[], str]
"""Makes the value of a parameter, for which a file may have to be fetched: called for what a notebook asks for."""


def _offered(work: Work) -> dict[str, Offer]:
    """What a notebook may ask for, by parameter name; of several inputs that have it, the first one's.

    Of every artifact, by its kind, `<kind>_path` (on this machine) and `<kind>_address`; ids and names of what was made; and
    all results of the inputs as JSON in `upstream`.
    """
    offered: dict[str, Offer] = {"run_id": _value(work.node.run_id)}
    for source in work.upstream.values():
        own = _of_class(work, source)
        for kind, address in source.result.artifacts.items():
            name = kind.partition(".")[0]
            own.setdefault(f"{name}_path", _local(work, address))
            own.setdefault(f"{name}_address", _value(address))
        offered = own | offered
    upstream = {name: _seen(source) for name, source in work.upstream.items()}
    return offered | {"upstream": _value(json.dumps(upstream))}


def _of_class(work: Work, source: Upstream) -> dict[str, Offer]:
    """What inputs of some classes offer beside their artifacts."""
    result, own = source.result, dict[str, Offer]()
    if result.model_ids:
        own |= {"model_id": _value(result.model_ids[0]), "model_ids": _value(",".join(result.model_ids))}
    if source.agent_class is AgentClass.EVALUATION:
        folder = next(iter(result.artifacts.values()))
        own |= {"examples_path": _local(work, folder, "examples.parquet"), "evaluation_path": _local(work, folder, "evaluation.json")}
    if source.agent_class in (AgentClass.PREPROCESSING, AgentClass.TRAINING):
        own["base_model"] = _value(result.data["base_model"])
        own["preprocessing"] = _value(json.dumps(result.data.get("config") or result.data["preprocessing"]))
    if source.agent_class is AgentClass.TRAINING:
        own["splits_path"] = _local(work, result.data["splits"])
    if source.agent_class is AgentClass.COMPARISON:
        own["metric"] = _value(result.data["metric"])
    return own


def _value(value: str) -> Offer:
    return lambda: value


def _local(work: Work, address: str, name: str = "") -> Offer:
    return lambda: str(work.platform.storage.as_local(address, work.platform.settings.work / "inputs") / name)


def _seen(source: Upstream) -> dict[str, Any]:
    shown = source.result.model_dump(mode="json", include={"artifacts", "metrics", "model_ids", "datasets"})
    return {"agent_class": source.agent_class.value, **shown}
