"""ComparisonAgent: which of the evaluated models is best, and is it good enough to become the champion?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from llm_platform.agents.models import project
from llm_platform.agents.node import Work
from llm_platform.comparisons import base_of, newest, tuned_of
from llm_platform.errors import InvalidConfig
from llm_platform.models import registered
from llm_platform.registry import RegisteredModel
from llm_platform.registry.charts import COMPARISON_TAG
from llm_platform.specs import AgentClass, ComparisonConfig
from llm_platform.specs.agents import Metric
from llm_platform.specs.comparison import Comparison, Promotion
from llm_platform.specs.results import NodeResult

if TYPE_CHECKING:
    from llm_platform.evaluation.compare import Evaluated

ValueT = TypeVar("ValueT")

CHAMPION = "champion"
"""The alias in the registry, of one version of each registered model."""


def run_comparison(work: Work) -> NodeResult:
    """The comparison and its chart in `artifacts.comparison`; what the gate decided in `data.promotion`; the gain in `metrics`."""
    from llm_platform.evaluation.charts import comparison_png
    from llm_platform.evaluation.compare import best, compare

    config = work.node.config
    assert isinstance(config, ComparisonConfig)
    platform, node, reporter = work.platform, work.node, work.reporter
    models, results, bases = _gather(work, config)
    chosen = best(list(results.values()), config.metric)
    if chosen is None:
        raise InvalidConfig(f"None of {', '.join(models)} was measured by {config.metric}", field="metric", agent=node.agent_name)
    against, reasons = _against(work, models[chosen.model_id], chosen, results, bases)
    everyone = {**bases, **results} | ({against.model_id: against} if against else {})
    if len(everyone) < 2:
        raise InvalidConfig(
            f"There is nothing to compare '{chosen.model_id}' with; evaluate it with include_base, or name model_ids", agent=node.agent_name
        )
    baseline = against or next(item for item in everyone.values() if item is not chosen)
    comparison = compare(list(everyone.values()), baseline.model_id)
    promotion = _decide(work, config, comparison, chosen.model_id, reasons)
    _tell(work, config, comparison, promotion)
    with node.scratch(platform) as scratch:
        out = scratch / "comparison"
        out.mkdir()
        (out / "comparison.json").write_text(comparison.model_dump_json(indent=2), "utf-8")
        (out / "promotion.json").write_text(promotion.model_dump_json(indent=2), "utf-8")
        (out / "comparison.png").write_bytes(comparison_png(comparison, config.metric))
        address = f"s3://{platform.settings.artifacts_bucket}/{node.run_id}/comparisons/{node.agent_name}"
        platform.storage.put_folder(out, address)
    reporter.info("Comparison saved", address=address)
    _record(work, list(models.values()), config.metric, comparison, promotion)
    return NodeResult(
        artifacts={"comparison": address},
        metrics=_figures(promotion),
        model_ids=list(models),
        data={
            "metric": config.metric,
            "best": chosen.model_id,
            "comparison": comparison.model_dump(mode="json"),
            "promotion": promotion.model_dump(mode="json"),
        },
    )


def _gather(work: Work, config: ComparisonConfig) -> tuple[dict[str, RegisteredModel], dict[str, Evaluated], dict[str, Evaluated]]:
    """The models by id, their results, and those of their bases by name."""
    platform = work.platform
    inputs = platform.settings.work / "inputs"
    # The node's own results, even if another node evaluated a model since.
    addresses: dict[str, str | None] = {}
    for source in work.of(AgentClass.EVALUATION):
        addresses |= zip(source.result.model_ids, source.result.artifacts.values(), strict=True)
    addresses |= {model_id: None for model_id in config.model_ids if model_id not in addresses}
    models = {model_id: registered(model_id, platform.registry) for model_id in addresses}
    results: dict[str, Evaluated] = {}
    bases: dict[str, Evaluated] = {}
    for model_id, model in models.items():
        address = addresses[model_id] or newest(model)
        results[model_id] = tuned_of(model, address, platform.storage, inputs)
        if model.base_model not in bases and (base := base_of(model, address, platform.storage, inputs)):
            bases[model.base_model] = base
    return models, results, bases


def _against(
    work: Work, model: RegisteredModel, chosen: Evaluated, results: dict[str, Evaluated], bases: dict[str, Evaluated]
) -> tuple[Evaluated | None, list[str]]:
    """What the best model has to beat: the champion until now, or the base model. None, and why, if there is no such comparison."""
    champion = work.platform.registry.alias(model.model_name, CHAMPION)
    if champion is None or champion.model_id == model.model_id:
        base = bases.get(model.base_model)
        before = "There is no champion" if champion is None else "It is the champion already"
        return base, [] if base else [f"{before}, and the base model '{model.base_model}' was not scored (include_base)"]
    if champion.model_id in results:
        return results[champion.model_id], []
    owner = work.platform.database.owner_of_run(work.node.run_id)
    if owner is not None and owner != work.platform.database.owner_of_run(champion.run_id):
        return None, [f"The champion of '{model.model_name}' is another owner's; train under a model_name of your own"]
    try:
        found = tuned_of(champion, newest(champion), work.platform.storage, work.platform.settings.work / "inputs")
    except InvalidConfig as error:
        return None, [f"The champion '{champion.model_id}' cannot be compared: {error.message}"]
    if not found.same_examples(chosen):
        return None, [
            f"The champion '{champion.model_id}' was not evaluated on these examples, so nothing says which is better; "
            "evaluate both on one dataset_id"
        ]
    return found, []


def _decide(work: Work, config: ComparisonConfig, comparison: Comparison, model_id: str, reasons: Sequence[str]) -> Promotion:
    """Judges the best model, and gives it the alias if the gate holds."""
    from llm_platform.evaluation.compare import judge

    if reasons:
        nothing = {"against": None, "gain": None, "regressions": None, "holds": False, "promoted": False}
        return Promotion(model_id=model_id, metric=config.metric, reasons=list(reasons), **nothing)
    promotion = judge(comparison, model_id, config.metric, config.min_gain, config.max_regressions)
    if not promotion.holds:
        return promotion
    if not config.promote:
        return promotion.model_copy(update={"reasons": ["The gate holds; promote is off, so the alias was left as it was"]})
    work.platform.registry.set_alias(model_id, CHAMPION)
    return promotion.model_copy(update={"promoted": True})


def _tell(work: Work, config: ComparisonConfig, comparison: Comparison, promotion: Promotion) -> None:
    for item in comparison.differences:
        bound = item.intervals.get(config.metric)
        shown = f"{item.differences[config.metric]:+.4g} ({bound.low:+.3g} to {bound.high:+.3g})" if bound else "not measured"
        flips = "" if item.to_right is None else f"; {item.to_right} examples turned right, {item.to_wrong} wrong"
        where = f"{item.model_id} against {comparison.baseline} on {comparison.examples:,} examples"
        work.reporter.info(f"{where}: {config.metric} {shown}{flips}")
    if promotion.promoted:
        work.reporter.info(f"'{promotion.model_id}' is the {CHAMPION} now", model_id=promotion.model_id)
    elif promotion.holds:
        work.reporter.info(promotion.reasons[0], model_id=promotion.model_id)
    else:
        work.reporter.warn(f"'{promotion.model_id}' was not promoted: {'; '.join(promotion.reasons)}", model_id=promotion.model_id)


def _record(work: Work, models: Sequence[RegisteredModel], metric: Metric, comparison: Comparison, promotion: Promotion) -> None:
    """Keeps what the cards of this job's models show of it: one metric, and of nobody's examples a word."""
    short = comparison.model_copy(
        update={
            "models": [
                item.model_copy(update={"metrics": _only(item.metrics, metric), "intervals": _only(item.intervals, metric)})
                for item in comparison.models
            ],
            "differences": [
                item.model_copy(
                    update={
                        "differences": _only(item.differences, metric),
                        "intervals": _only(item.intervals, metric),
                        "right_examples": [],
                        "wrong_examples": [],
                    }
                )
                for item in comparison.differences
            ],
        }
    )
    kept = {"metric": metric, "comparison": short.model_dump(mode="json"), "promotion": promotion.model_dump(mode="json")}
    for model in models:
        if model.run_id == work.node.run_id:
            work.platform.registry.set_tags(model.model_id, {COMPARISON_TAG: json.dumps(kept)})
    if promotion.promoted:  # the list shows who has the alias: this model now, and another no more
        for model_id in {promotion.model_id, promotion.against or promotion.model_id}:
            if work.platform.database.model(model_id) is not None:
                project(work.platform, model_id)


def _only(values: Mapping[str, ValueT], metric: str) -> dict[str, ValueT]:
    return {name: value for name, value in values.items() if name == metric}


def _figures(promotion: Promotion) -> dict[str, float]:
    known = {"gain": promotion.gain, "regressions": promotion.regressions, "promoted": promotion.promoted}
    return {name: float(value) for name, value in known.items() if value is not None}
