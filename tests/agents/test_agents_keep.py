"""A training node that is asked to stop and keep: what is registered, and what a kill between its steps leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_platform import signals
from llm_platform.agents import Node, Platform, run_node
from llm_platform.errors import Cancelled
from llm_platform.registry import card
from llm_platform.reporting import ListReporter
from llm_platform.specs.results import NodeResult

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning",
    "ignore:.*Any type hint is inferred as AnyType:UserWarning",  # when MLflow imports its own module
)


class Asking(ListReporter):
    """Somebody asks to stop and keep as soon as a step is logged; `killed_at` is the message at which the process then dies."""

    def __init__(self, platform: Platform, run_id: str, killed_at: str | None = None) -> None:
        super().__init__()
        self.platform, self.run_id, self.killed_at = platform, run_id, killed_at

    def metric(self, message: str, *, step: int, epoch: float, **values: float) -> None:
        super().metric(message, step=step, epoch=epoch, **values)
        if "loss" in values and not signals.keep_asked(self.platform.database, self.run_id):
            assert signals.ask_to_keep(self.platform.database, self.run_id) == ["training"]

    def info(self, message: str, **data: Any) -> None:
        super().info(message, **data)
        if self.killed_at is not None and message.startswith(self.killed_at):
            raise Cancelled


def training(platform: Platform, base: Path, run_id: str) -> Node:
    """A node that would train for long."""
    platform.database.accept(run_id, dagster_run_id=f"d-{run_id}", digest="x", pipeline={"nodes": []})
    bodies: list[dict[str, Any]] = [
        {"agent_name": "rows", "agent_class": "DatasetAgent", "inputs": [], "config": {"file_path": "s3://datasets/rows.csv"}},
        {
            "agent_name": "splits",
            "agent_class": "PreprocessingAgent",
            "inputs": ["rows"],
            "config": {"base_model": str(base), "template": "plain", "dedup": False},
        },
        {
            "agent_name": "training",
            "agent_class": "TrainingAgent",
            "inputs": ["splits"],
            "config": {"max_steps": 100_000, "checkpoint_every": 100_000, "evaluate_every": 100_000, "model_name": run_id},
        },
    ]
    made = [Node.from_dict({**body, "run_id": run_id, "peers": 1}) for body in bodies]
    for node in made[:2]:
        run_node(platform, node, ListReporter())
    return made[2]


def steps_of(result: NodeResult) -> int:
    assert result.data["training"]["stopped_on_request"]
    return result.data["training"]["steps"]


def test_what_it_has_is_registered_as_stopped_early(bare_platform: Platform, base: Path) -> None:
    node = training(bare_platform, base, "kept")
    result = run_node(bare_platform, node, Asking(bare_platform, "kept"))
    steps = steps_of(result)
    model = bare_platform.registry.get("model_kept")
    assert model is not None and model.tags["stopped_early"] == f"on request, after step {steps}"
    assert {"final_loss", "validation_loss"} <= model.metrics.keys()
    assert f"**Its training was stopped early**, on request, after step {steps}" in card(model)
    assert bare_platform.database.models_of(["kept"]) == {"kept": ["model_kept"]}
    assert run_node(bare_platform, node, ListReporter()).reused, "tried again, the node is done"


@pytest.mark.parametrize("moment", ["Stopped on request", "Saving the adapter", "Model registered"])
def test_killed_on_the_way(moment: str, bare_platform: Platform, base: Path) -> None:
    """Whether or not the model was registered by then: the next attempt ends with the model of the same step, and one model."""
    run_id = f"killed-{moment.split()[0]}"
    node = training(bare_platform, base, run_id)
    with pytest.raises(Cancelled):
        run_node(bare_platform, node, Asking(bare_platform, run_id, killed_at=moment))
    before = bare_platform.registry.get(f"model_{run_id}")
    assert (before is not None) == (moment == "Model registered")
    if before is not None:  # the job was tried again, and nobody asks any more
        database = bare_platform.database
        database.finish(run_id, f"d-{run_id}", "cancelled", started_at=None, ended_at=None)
        assert database.retry(run_id, dagster_run_id="d2", instead_of=f"d-{run_id}")
    reporter = ListReporter()
    result = run_node(bare_platform, node, reporter)
    assert not any(level == "METRIC" for level, _, _ in reporter.lines), "no further step"
    after = bare_platform.registry.get(f"model_{run_id}")
    assert after is not None and after.tags["stopped_early"] == f"on request, after step {steps_of(result)}"
    assert before is None or (after.mlflow_run_id, after.metrics) == (before.mlflow_run_id, before.metrics)
