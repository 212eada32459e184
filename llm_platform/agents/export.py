"""ExportAgent: the trained model in the formats that people load, each tried on held-out rows before it is offered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from llm_platform.agents.models import project, weights
from llm_platform.agents.node import Work
from llm_platform.errors import InvalidConfig, TrainingError
from llm_platform.export.packages import check_gguf
from llm_platform.models import registered
from llm_platform.specs import AgentClass, ExportConfig, PreprocessingConfig
from llm_platform.specs.export import ExportFormat
from llm_platform.specs.gate import GateResult
from llm_platform.specs.results import NodeResult
from llm_platform.training import base_model

FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
"""In the order in which they are made: what is merged becomes GGUF."""


@dataclass(frozen=True)
class _Trained:
    """A trained node, of this run or of an earlier one."""

    agent_name: str
    model_id: str
    result: NodeResult


def run_export(work: Work) -> NodeResult:
    """The address of each accepted format in `artifacts` (several models: with the node's name behind the format).

    `data.gates` has what the gate found, by model and file. Raises TrainingError if nothing at all was accepted.
    """
    config = work.node.config
    assert isinstance(config, ExportConfig)
    if "gguf" in config.formats:
        check_gguf(config.gguf_quantization)
    sources = _sources(work)
    result = NodeResult(model_ids=[source.model_id for source in sources], data={"exports": {}, "gates": {}})
    work.node.partial = result
    for source in sources:
        _export(work, config, source, result, alone=len(sources) == 1)
        project(work.platform, source.model_id)
    if not result.artifacts:
        reasons = [f"{file}: {why}" for gates in result.data["gates"].values() for file, gate in gates.items() for why in gate["reasons"]]
        message = f"No export answers as the evaluated model does, so none is offered: {'; '.join(reasons)}"
        raise TrainingError(message, gates=result.data["gates"])
    return result


def _sources(work: Work) -> list[_Trained]:
    """The trained nodes before this one, and the best models of the comparisons before it."""
    found = [_Trained(item.agent_name, item.result.model_ids[0], item.result) for item in work.of(AgentClass.TRAINING)]
    for comparison in work.of(AgentClass.COMPARISON):
        model = registered(comparison.result.data["best"], work.platform.registry)
        row = work.platform.database.node(model.run_id, model.agent_name)
        if row is None or row["result"] is None:
            raise InvalidConfig(f"The training of '{model.model_id}' is no longer known, so it cannot be exported", model_id=model.model_id)
        work.reporter.info(f"'{model.model_id}' is the best of '{comparison.agent_name}', so it is exported", model_id=model.model_id)
        found.append(_Trained(model.agent_name, model.model_id, NodeResult.model_validate(row["result"])))
    return list({item.model_id: item for item in found}.values())


def _export(work: Work, config: ExportConfig, source: _Trained, result: NodeResult, *, alone: bool) -> None:
    """Makes, tries, stores and registers each format of one model, and adds it to the result."""
    from llm_platform.export.exporter import Exporter
    from llm_platform.export.gate import reference
    from llm_platform.export.prompting import Prompting
    from llm_platform.training.device import pick_device

    platform, reporter, data = work.platform, work.reporter, source.result.data
    kind, address = weights(source.result)
    if "adapter" in config.formats and kind == "model":
        raise InvalidConfig(f"'{source.agent_name}' trained all weights, so there is no adapter; export it as 'merged'")
    inputs, threads = platform.settings.work / "inputs", platform.settings.threads
    base = base_model.resolve(data["base_model"], platform.settings, reporter)
    trained = platform.storage.as_local(address, inputs)
    splits = platform.storage.as_local(data["splits"], inputs)
    prompting = Prompting.of(PreprocessingConfig.model_validate(data["preprocessing"]), base)
    device, dtype = pick_device(threads)
    reporter.info(f"Asking {source.agent_name}, as it was evaluated, what exports must answer")
    known = reference(config.gate, base, trained, splits, prompting, device, dtype, reporter)
    if known.split != "test":
        reporter.warn(f"The test split is empty, so exports are tried on rows of the {known.split} split")
    home = address.rpartition("/")[0]
    with work.node.scratch(platform) as scratch:
        exporter = Exporter(config, base, trained, prompting, known, scratch, reporter, threads)
        for name in sorted(config.formats, key=FORMATS.index):
            reporter.info(f"Exporting {source.agent_name} as {name}")
            made, gates = exporter.make(name)
            stored = platform.storage.put_folder(scratch / name, f"{home}/{name}")
            platform.registry.set_export(source.model_id, name, stored.address, stored.sha256, gates)
            result.data["exports"][f"{source.agent_name}.{name}"] = made.model_dump(mode="json")
            found: dict[str, Any] = result.data["gates"].setdefault(source.agent_name, {})
            for file, gate in gates.items():
                found[file] = gate.model_dump(mode="json")
                _tell(work, file, gate)
            if name == "merged" and kind == "adapter" and gates[name].accepted:  # a whole model is there since it was trained
                loads = platform.registry.log_merged(source.model_id, scratch / name)
                reporter.info(f"In MLflow: mlflow.transformers.load_model('{loads}')", model_id=source.model_id)
            if any(gate.accepted for gate in gates.values()):
                result.artifacts[name if alone else f"{name}.{source.agent_name}"] = stored.address
                reporter.info(f"Exported {name}: {made.size_bytes:,} bytes", address=stored.address)


def _tell(work: Work, file: str, gate: GateResult) -> None:
    figures = gate.model_dump(mode="json")
    if gate.accepted:
        asked = f"{gate.agreement:.1%} of {gate.rows} answers in {gate.runtime} are those of the evaluated model"
        work.reporter.info(f"{file} is accepted: {asked}", export=file, gate=figures)
    else:
        work.reporter.warn(f"{file} is rejected, and not offered for download: {'; '.join(gate.reasons)}", export=file, gate=figures)
