"""Comparison nodes that could never compare anything, or not by what they ask for, are refused with the pipeline."""

from __future__ import annotations

from typing import Any

import pytest

from llm_platform.acceptance import Checks
from llm_platform.agents import Platform
from llm_platform.database import now
from llm_platform.errors import InvalidConfig, InvalidInput
from llm_platform.keys import OPERATOR, Caller
from llm_platform.settings import Settings
from llm_platform.specs import Pipeline, parse_pipeline


def pipeline(comparison: dict[str, Any], *evaluations: tuple[dict[str, Any], list[str]]) -> Any:
    """A comparison behind evaluations, each of some of the trainings `one` and `two`."""
    trainings = ("one", "two")
    nodes: list[dict[str, Any]] = [
        {"agent_name": "rows", "agent_class": "DatasetAgent", "config": {"dataset_id": "ds_1"}},
        {"agent_name": "splits", "agent_class": "PreprocessingAgent", "config": {"base_model": "llm-platform/tiny-llama"}},
        *({"agent_name": name, "agent_class": "TrainingAgent"} for name in trainings),
        {"agent_name": "choice", "agent_class": "ComparisonAgent", "config": comparison},
    ]
    edges = [("rows", "splits"), *(("splits", name) for name in trainings)]
    for number, (config, sources) in enumerate(evaluations):
        nodes.append({"agent_name": f"scores{number}", "agent_class": "EvaluationAgent", "config": config})
        edges += [*((name, f"scores{number}") for name in sources), (f"scores{number}", "choice")]
    return {"nodes": nodes, "edges": [{"from_agent": source, "to_agent": target} for source, target in edges]}


@pytest.mark.parametrize(
    "data",
    [
        pipeline({}, ({}, ["one"])),
        pipeline({}, ({"include_base": False}, ["one", "two"])),
        pipeline({}, ({"include_base": False}, ["one"]), ({"include_base": False}, ["two"])),
        pipeline({"model_ids": ["model_a", "model_b.c"]}),
        pipeline({"model_ids": ["model_a"], "metric": "loss"}, ({"include_base": False, "metrics": ["loss"]}, ["one"])),
    ],
)
def test_two_models_of_any_kind_are_enough(data: Any) -> None:
    assert parse_pipeline(data).node("choice")


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        (pipeline({}), "edges", "compares two or more models, and 0 would reach it"),
        (pipeline({}, ({"include_base": False}, ["one"])), "edges", "and 1 would reach it; give it an edge"),
        (pipeline({"model_ids": ["model_a"]}), "edges", "and 1 would reach it"),
        (pipeline({}, ({}, ["one"]), ({}, ["one", "two"])), "edges", "'one' reaches 'choice' through 2 evaluations"),
        (pipeline({}, ({"max_samples": 5}, ["one"]), ({}, ["two"])), "edges", "are of different examples"),
        (pipeline({}, ({"dataset_id": "ds_2"}, ["one"]), ({}, ["two"])), "edges", "are of different examples"),
        (pipeline({"metric": "f1"}, ({"metrics": ["loss"]}, ["one"])), "metric", "'scores0' does not measure f1; it measures loss"),
        (pipeline({"model_ids": ["model_a", "model_a"]}), "model_ids", "'model_a' is named 2 times"),
    ],
)
def test_what_compares_nothing_is_refused(data: Any, field: str, words: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_pipeline(data)
    entry = caught.value.metadata["errors"][0]
    assert (entry["agent"], entry["field"]) == ("choice", field) and words in entry["message"]


@pytest.mark.parametrize("config", [{"min_gain": -0.1}, {"max_regressions": 1.5}, {"metric": "bleu"}, {"model_ids": ["../x"]}, {"gain": 1}])
def test_a_bad_field_is_named(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="ComparisonAgent") as caught:
        parse_pipeline(pipeline(config, ({}, ["one"])))
    assert caught.value.metadata["errors"][0]["field"].startswith(next(iter(config)))


def test_it_is_not_fed_by_a_training() -> None:
    data = pipeline({}, ({}, ["one"]))
    data["edges"].append({"from_agent": "two", "to_agent": "choice"})
    with pytest.raises(InvalidConfig, match="it takes EvaluationAgent"):
        parse_pipeline(data)


def test_models_of_earlier_runs_are_known_before_the_job_is_accepted(tmp_path: Any) -> None:
    platform = Platform.from_settings(Settings(home=tmp_path / "home"))
    model = {"model_name": "m", "base_model": "b", "exports": {}, "created_at": now()}
    for name, metrics in (("good", {"accuracy": 0.5, "base_accuracy": 0.1}), ("trained", {"final_loss": 0.5, "base_accuracy": 0.1})):
        platform.database.put_model(model_id=f"model_{name}", run_id=name, metrics=metrics, **model)

    def check(*names: str, caller: Caller = OPERATOR) -> None:
        made: Pipeline = parse_pipeline({"nodes": [pipeline({"model_ids": list(names)})["nodes"][-1]], "edges": []})
        Checks(made, platform.settings, platform.database, platform.storage, caller).run()

    platform.database.put_model(model_id="model_better", run_id="better", metrics={"accuracy": 0.6}, **model)
    check("model_good", "model_better")
    with pytest.raises(InvalidConfig, match="There is no model 'model_none'") as caught:
        check("model_good", "model_none")
    assert caught.value.metadata["errors"][0] == {"field": "model_ids", "agent": "choice", "message": "There is no model 'model_none'"}
    with pytest.raises(InvalidConfig, match="Model 'model_trained' was not evaluated by accuracy; it has final_loss"):
        check("model_good", "model_trained")
    with pytest.raises(InvalidConfig, match="There is no model 'model_good'"):
        check("model_good", "model_better", caller=Caller(owner="someone", scope="read"))
    platform.close()
