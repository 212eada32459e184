"""EvaluationAgent: is the tuned model better than its base, on rows that it has not seen?"""

from __future__ import annotations

from pathlib import Path

from llm_platform.agents.models import project, weights
from llm_platform.agents.node import Upstream, Work
from llm_platform.comparisons import EVALUATION_TAG
from llm_platform.errors import InvalidConfig
from llm_platform.specs import AgentClass, EvaluationConfig, PreprocessingConfig
from llm_platform.specs.results import NodeResult
from llm_platform.training import base_model


def run_evaluation(work: Work) -> NodeResult:
    """Figures of each model in `metrics` (several models: prefixed by the node's name); examples per model in `artifacts`."""
    from llm_platform.evaluation import base_cache
    from llm_platform.evaluation.evaluate import evaluate

    config = work.node.config
    assert isinstance(config, EvaluationConfig)
    platform, node, reporter = work.platform, work.node, work.reporter
    sources = work.of(AgentClass.TRAINING)
    artifacts: dict[str, str] = {}
    metrics: dict[str, float] = {}
    reports: dict[str, object] = {}
    for source in sources:
        (model_id,) = source.result.model_ids
        data = source.result.data
        base = base_model.resolve(data["base_model"], platform.settings, reporter)
        tuned = platform.storage.as_local(weights(source.result)[1], platform.settings.work / "inputs")
        with node.scratch(platform) as scratch:
            rows = _rows(work, config, source, base, scratch)
            out = scratch / "evaluation"
            cached, known = None, None
            tasks = platform.settings.benchmark_tasks
            if config.include_base:
                key = base_cache.base_key(config, base, tuned, rows, tasks)
                cached = f"s3://{platform.settings.artifacts_bucket}/cache/base-evaluations/{key}"
                known = platform.storage.as_local(cached, platform.settings.work / "inputs") if platform.storage.exists(cached) else None
            threads = platform.settings.threads
            result = evaluate(config, base, tuned, rows, out, reporter, threads, known_base=known, benchmark_tasks=tasks)
            if cached is not None and known is None:
                base_cache.keep(out, scratch / "base")
                platform.storage.put_folder(scratch / "base", cached)
            address = f"s3://{platform.settings.artifacts_bucket}/{node.run_id}/evaluations/{node.agent_name}/{source.agent_name}"
            platform.storage.put_folder(out, address)
        figures = dict(result.tuned) | {f"base_{name}": value for name, value in (result.base or {}).items()}
        bounds = result.intervals["tuned"] | {f"base_{name}": interval for name, interval in result.intervals.get("base", {}).items()}
        platform.registry.set_metrics(model_id, figures, bounds)
        platform.registry.set_tags(model_id, {EVALUATION_TAG: address})
        project(platform, model_id)
        artifacts["evaluation" if len(sources) == 1 else f"evaluation.{source.agent_name}"] = address
        metrics |= figures if len(sources) == 1 else {f"{source.agent_name}.{name}": value for name, value in figures.items()}
        reports[source.agent_name] = result.model_dump(mode="json")
        for example in result.examples:
            reporter.info("Sample answer", example=example)
        reporter.info(_summary(source, result.tuned, result.base, result.samples), model_id=model_id)
    return NodeResult(
        artifacts=artifacts,
        metrics=metrics,
        model_ids=[model_id for source in sources for model_id in source.result.model_ids],
        data={"reports": reports},
    )


def _rows(work: Work, config: EvaluationConfig, source: Upstream, base: Path, scratch: Path) -> Path:
    """The rows to score on: the untouched test split, or a named dataset prepared as the training rows were."""
    from llm_platform.data.preprocess import prepare_rows

    platform = work.platform
    inputs = platform.settings.work / "inputs"
    if config.dataset_id is None:
        return platform.storage.as_local(source.result.data["splits"], inputs) / "test.parquet"
    row = platform.database.dataset(config.dataset_id)
    if row is None:
        raise InvalidConfig(f"There is no dataset '{config.dataset_id}'", field="dataset_id", agent=work.node.agent_name)
    rows = scratch / "rows.parquet"
    prepared = PreprocessingConfig.model_validate(source.result.data["preprocessing"])
    count = prepare_rows(platform.storage.as_local(row["table_path"], inputs), prepared, base, rows, work.reporter)
    work.reporter.info(f"Scoring on dataset {config.dataset_id}: {count} rows")
    return rows


def _summary(source: Upstream, tuned: dict[str, float], base: dict[str, float] | None, samples: int) -> str:
    parts = [f"{name} {value:.4g}" + (f" (base {base[name]:.4g})" if base and name in base else "") for name, value in tuned.items()]
    return f"Evaluated {source.agent_name} on {samples} rows: {', '.join(parts)}"
