"""ComparisonAgent through the agents: what it compares, and when it sets the alias `champion`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llm_platform.agents import Node, Platform, run_node
from llm_platform.comparisons import compare_models
from llm_platform.errors import InvalidConfig
from llm_platform.models import registered
from llm_platform.registry import card
from llm_platform.registry.charts import charts_of
from llm_platform.reporting import ListReporter
from llm_platform.specs.comparison import Comparison, Promotion
from llm_platform.specs.results import NodeResult

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning",
    "ignore:.*Any type hint is inferred as AnyType:UserWarning",  # when MLflow imports its own module
)
GOOD = {"max_steps": 60, "learning_rate": 1e-2, "lora_dropout": 0.0, "batch_size": 16}


@pytest.fixture(scope="module")
def platform(bare_platform: Platform, base: Path) -> Platform:
    """Two trained models, of which `good` learned to answer with the first word; both were evaluated on one split."""
    run(bare_platform, "rows", "DatasetAgent", [], file_path="s3://datasets/rows.csv")
    split = {"train": 0.5, "validation": 0.0, "test": 0.5, "near_duplicates": "ignore"}
    run(bare_platform, "splits", "PreprocessingAgent", ["rows"], base_model=str(base), template="plain", dedup=False, split=split)
    run(bare_platform, "poor", "TrainingAgent", ["splits"], max_steps=1, model_name="colours")
    run(bare_platform, "good", "TrainingAgent", ["splits"], model_name="colours", **GOOD)
    run(bare_platform, "scores", "EvaluationAgent", ["poor", "good"], max_new_tokens=4)
    return bare_platform


def run(
    platform: Platform, name: str, kind: str, inputs: list[str], reporter: ListReporter | None = None, run_id: str = "r", **config: Any
) -> NodeResult:
    body = {"run_id": run_id, "agent_name": name, "agent_class": kind, "inputs": inputs, "peers": 3, "config": config}
    return run_node(platform, Node.from_dict(body), reporter or ListReporter())


def champion(platform: Platform) -> str | None:
    found = platform.registry.alias("colours", "champion")
    return None if found is None else found.model_id


def test_first_the_gate_then_the_champion(platform: Platform) -> None:
    strict = run(platform, "strict", "ComparisonAgent", ["scores"], min_gain=1.0)
    promotion = Promotion.model_validate(strict.data["promotion"])
    assert not promotion.holds and "below min_gain 1" in promotion.reasons[0] and champion(platform) is None
    asked = run(platform, "asked", "ComparisonAgent", ["scores"], promote=False)
    promotion = Promotion.model_validate(asked.data["promotion"])
    assert promotion.holds and not promotion.promoted and "promote is off" in promotion.reasons[0] and champion(platform) is None

    reporter = ListReporter()
    made = run(platform, "choice", "ComparisonAgent", ["scores"], reporter)
    promotion = Promotion.model_validate(made.data["promotion"])
    assert promotion.promoted and promotion.reasons == [] and champion(platform) == promotion.model_id == "model_r.good"
    assert made.data["best"] == "model_r.good" and made.model_ids == ["model_r.poor", "model_r.good"]
    assert made.metrics["promoted"] == 1 and made.metrics["gain"] == promotion.gain
    assert any("'model_r.good' is the champion now" in text for _, text, _ in reporter.lines)

    chosen = registered("model_r.good", platform.registry)
    text = card(chosen, charts_of(chosen, platform.registry))
    assert "`model_r.good` passed the gate and became the champion" in text and text.count("data:image/png") == 3
    assert (platform.database.model("model_r.good") or {})["aliases"] == {"champion": True}

    comparison = Comparison.model_validate(made.data["comparison"])
    base = comparison.models[0].model_id
    assert promotion.against == comparison.baseline == base and base.endswith("base")
    assert [item.model_id for item in comparison.models] == [base, "model_r.poor", "model_r.good"]
    figures = {item.model_id: item for item in comparison.models}
    assert promotion.gain == pytest.approx(figures["model_r.good"].metrics["accuracy"] - figures[base].metrics["accuracy"])
    cost = figures["model_r.good"].cost
    assert cost.parameters and cost.adapter_parameters and cost.train_seconds and cost.scoring_seconds
    assert figures[base].cost.parameters == cost.parameters - cost.adapter_parameters and figures[base].cost.train_seconds is None

    folder = platform.storage.as_local(made.artifacts["comparison"], platform.settings.work / "inputs")
    assert Comparison.model_validate_json((folder / "comparison.json").read_text()) == comparison
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_champion_is_what_a_new_model_has_to_beat(platform: Platform) -> None:
    platform.registry.set_alias("model_r.good", "champion")
    run(platform, "poor_scores", "EvaluationAgent", ["poor"], max_new_tokens=4)
    worse = run(platform, "worse", "ComparisonAgent", ["poor_scores"])
    promotion = Promotion.model_validate(worse.data["promotion"])
    assert (promotion.against, promotion.holds, champion(platform)) == ("model_r.good", False, "model_r.good")
    assert [item["model_id"] for item in worse.data["comparison"]["models"]][-1] == "model_r.good"
    other = run(platform, "few_scores", "EvaluationAgent", ["poor"], max_new_tokens=4, max_samples=5)
    assert other.metrics["count"] == 5
    promotion = Promotion.model_validate(run(platform, "unknown", "ComparisonAgent", ["few_scores"]).data["promotion"])
    assert promotion.against is None and "was not evaluated on these examples" in promotion.reasons[0]
    assert champion(platform) == "model_r.good"
    with pytest.raises(InvalidConfig, match="were not evaluated on the same examples"):
        run(platform, "mixed", "ComparisonAgent", ["few_scores"], model_ids=["model_r.good"])


def test_models_are_compared_by_id_on_what_their_evaluations_left(platform: Platform) -> None:
    platform.registry.set_alias("model_r.good", "champion")
    run(platform, "scores_again", "EvaluationAgent", ["poor", "good"], max_new_tokens=4, include_base=False)
    models = [registered(name, platform.registry) for name in ("model_r.poor", "model_r.good")]
    found = compare_models(models, platform.storage, platform.settings.work / "inputs")
    assert found.baseline == "model_r.poor" and found.differences[0].model_id == "model_r.good"
    by_id = run(platform, "by_id", "ComparisonAgent", [], model_ids=["model_r.poor", "model_r.good"])
    assert by_id.data["best"] == "model_r.good"
    assert by_id.data["comparison"] == found.model_dump(mode="json")
    (reason,) = by_id.data["promotion"]["reasons"]
    assert reason.startswith("It is the champion already, and the base model") and by_id.metrics == {"promoted": 0.0}
    run(platform, "alone", "EvaluationAgent", ["good"], max_new_tokens=4, include_base=False)
    with pytest.raises(InvalidConfig, match=r"nothing to compare 'model_r\.good' with"):
        run(platform, "nothing", "ComparisonAgent", ["alone"])


def test_another_owner_s_champion_stays_and_is_not_shown(platform: Platform) -> None:
    platform.registry.set_alias("model_r.poor", "champion")
    run(platform, "scores_of_good", "EvaluationAgent", ["good"], max_new_tokens=4)
    platform.database.accept("mine", dagster_run_id="d", digest="x", pipeline={}, owner="me")
    mine = run(platform, "choice", "ComparisonAgent", [], run_id="mine", model_ids=["model_r.good"])
    assert "is another owner's" in mine.data["promotion"]["reasons"][0] and champion(platform) == "model_r.poor"
    assert "model_r.poor" not in [item["model_id"] for item in mine.data["comparison"]["models"]]
    free = run(platform, "free", "ComparisonAgent", [], model_ids=["model_r.good"])
    assert free.data["promotion"]["against"] == "model_r.poor" and champion(platform) == "model_r.good"


def test_every_figure_reaches_the_registry_with_its_interval(platform: Platform) -> None:
    run(platform, "labels", "EvaluationAgent", ["good"], max_new_tokens=4)
    model = platform.registry.get("model_r.good")
    assert model is not None
    assert {"accuracy", "base_accuracy", "rouge_l", "exact_match", "eos_rate", "loss"} <= model.intervals.keys()
    assert {name for name in model.metrics if "interval" in name or name.endswith((".low", ".high"))} == set()
    for name, bound in model.intervals.items():
        assert bound.low <= model.metrics[name] <= bound.high and bound.count == model.metrics["count"]
    folder = Path(platform.storage.as_local(model.tags["evaluation"], platform.settings.work / "inputs"))
    report = json.loads((folder / "evaluation.json").read_text())
    assert report["intervals"]["tuned"]["accuracy"] == model.intervals["accuracy"].model_dump()
    assert pl.read_parquet(folder / "examples.parquet").height == report["samples"]
