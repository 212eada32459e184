"""Pipeline configs of the end-to-end tests."""

from __future__ import annotations

import itertools
from typing import Any

BASE_MODEL = "llm-platform/tiny-llama"
MAPPING = {"instruction": "question", "output": "answer"}


def node(name: str, agent_class: str, **config: Any) -> dict[str, Any]:
    return {"agent_name": name, "agent_class": agent_class, "config": config}


def edges(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from_agent": source, "to_agent": target} for source, target in pairs]


def chain(*nodes: dict[str, Any], run_id: str | None = None, **more: Any) -> dict[str, Any]:
    """Each node behind the one before it."""
    names = [item["agent_name"] for item in nodes]
    config = {"nodes": list(nodes), "edges": edges(*itertools.pairwise(names)), **more}
    return config | ({"run_id": run_id} if run_id else {})


def up_to_training(dataset: dict[str, str], run_id: str | None = None, **training: Any) -> dict[str, Any]:
    """Dataset, validation, preprocessing and a short training."""
    return chain(
        node("dataset", "DatasetAgent", **dataset),
        node("validation", "ValidationAgent"),
        node("preprocessing", "PreprocessingAgent", base_model=BASE_MODEL, template="alpaca", template_mapping=MAPPING),
        node("training", "TrainingAgent", **({"max_steps": 2, "batch_size": 4} | training)),
        run_id=run_id,
    )


def everything(dataset: dict[str, str], run_id: str) -> dict[str, Any]:
    """A short training, its evaluation and its export."""
    pipeline = up_to_training(dataset, run_id=run_id)
    pipeline["nodes"] += [node("evaluation", "EvaluationAgent", max_samples=4, max_new_tokens=8), node("export", "ExportAgent")]
    pipeline["edges"] += edges(("training", "evaluation"), ("training", "export"))
    return pipeline
