"""ExportAgent: the trained model in the formats that people load."""

from __future__ import annotations

from llm_platform.agents.models import project, weights
from llm_platform.agents.node import Work
from llm_platform.errors import InvalidConfig
from llm_platform.specs import AgentClass, ExportConfig
from llm_platform.specs.results import NodeResult
from llm_platform.training import base_model


def run_export(work: Work) -> NodeResult:
    """The address of each format in `artifacts` (several models: with the node's name behind the format)."""
    from llm_platform.export.export import export_adapter, export_merged, export_whole

    config = work.node.config
    assert isinstance(config, ExportConfig)
    platform, node, reporter = work.platform, work.node, work.reporter
    sources = work.of(AgentClass.TRAINING)
    artifacts: dict[str, str] = {}
    reports: dict[str, object] = {}
    for source in sources:
        (model_id,) = source.result.model_ids
        kind, address = weights(source.result)
        home = address.rpartition("/")[0]
        trained = platform.storage.as_local(address, platform.settings.work / "inputs")
        for name in dict.fromkeys(config.formats):
            reporter.info(f"Exporting {source.agent_name} as {name}")
            with node.scratch(platform) as scratch:
                out = scratch / name
                if name == "adapter" and kind == "model":
                    raise InvalidConfig(f"'{source.agent_name}' trained all weights, so there is no adapter; export it as 'merged'")
                if name == "adapter":
                    result = export_adapter(trained, out)
                else:
                    base = base_model.resolve(source.result.data["base_model"], platform.settings, reporter)
                    result = (export_whole if kind == "model" else export_merged)(base, trained, out, reporter)
                stored = platform.storage.put_folder(out, f"{home}/{name}")
            platform.registry.set_export(model_id, name, stored.address, stored.sha256)
            artifacts[name if len(sources) == 1 else f"{name}.{source.agent_name}"] = stored.address
            reports[f"{source.agent_name}.{name}"] = result.model_dump(mode="json")
            reporter.info(f"Exported {name}: {result.size_bytes:,} bytes", address=stored.address)
        project(platform, model_id)
    return NodeResult(artifacts=artifacts, model_ids=[m for source in sources for m in source.result.model_ids], data={"exports": reports})
