"""Trained models beside each other, from the per-example results that their evaluations left behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm_platform.errors import InvalidConfig, InvalidInput, NotFound, StorageError
from llm_platform.registry import RegisteredModel
from llm_platform.specs.comparison import Comparison, Cost
from llm_platform.storage import Storage

if TYPE_CHECKING:
    from llm_platform.evaluation.compare import Evaluated

EVALUATION_TAG = "evaluation"
"""The model's tag with the address of its newest evaluation."""
MOST_MODELS = 20


def check_ids(ids: Sequence[str]) -> None:
    """Raises InvalidInput for fewer than two ids, more than `MOST_MODELS`, or one given twice."""
    twice = sorted({model_id for model_id in ids if ids.count(model_id) > 1})
    if twice:
        problem = f"'{twice[0][:100]}' is given twice"
    elif not 2 <= len(ids) <= MOST_MODELS:
        problem = f"give 2 to {MOST_MODELS} model ids, not {len(ids)}"
    else:
        return
    raise InvalidInput(f"Models cannot be compared: {problem}", errors=[{"field": "ids", "agent": None, "message": problem}])


def compare_models(models: Sequence[RegisteredModel], storage: Storage, work: Path) -> Comparison:
    """Two or more models on the examples of their newest evaluations; the first is the baseline.

    Raises InvalidConfig for models that were not evaluated, or not on the same examples. `work` is for copies of what is stored
    elsewhere.
    """
    # Polars and numpy come with it, half a second that the API's start does not wait for.
    from llm_platform.evaluation.compare import compare

    return compare([tuned_of(model, newest(model), storage, work) for model in models], models[0].model_id)


def newest(model: RegisteredModel) -> str:
    """The address of a model's newest evaluation. Raises InvalidConfig if it has none."""
    address = model.tags.get(EVALUATION_TAG)
    if address is None:
        raise InvalidConfig(
            f"Model '{model.model_id}' was not evaluated, so there are no examples to compare it on; "
            "put an EvaluationAgent behind its training",
            model_id=model.model_id,
        )
    return address


def tuned_of(model: RegisteredModel, address: str, storage: Storage, work: Path) -> Evaluated:
    """The model's results in the evaluation at an address. Raises InvalidConfig if that is no longer stored."""
    return _evaluated(model, "tuned", address, storage, work)


def base_of(model: RegisteredModel, address: str, storage: Storage, work: Path) -> Evaluated | None:
    """The results of the model's base in the same evaluation, by the base model's name; None if it was not scored."""
    found = _evaluated(model, "base", address, storage, work)
    return found if any(name.startswith("base_") for name in found.table.columns) else None


def _evaluated(model: RegisteredModel, part: str, address: str, storage: Storage, work: Path) -> Evaluated:
    import polars as pl

    from llm_platform.evaluation.compare import Evaluated

    name = model.model_id if part == "tuned" else model.base_model
    try:
        folder = storage.as_local(address, work)
    except NotFound:
        raise InvalidConfig(f"The evaluation of '{name}' is no longer stored; evaluate it again", address=address) from None
    try:
        table = pl.read_parquet(folder / "examples.parquet")
        report = json.loads((folder / "evaluation.json").read_text("utf-8"))
    except (OSError, ValueError, pl.exceptions.PolarsError):
        raise StorageError(f"The stored evaluation of '{name}' cannot be read", address=address) from None
    trained = {"train_seconds": model.metrics.get("train_seconds")} if part == "tuned" else {}
    cost = Cost.model_validate(report.get("costs", {}).get(part, {})).model_copy(update=trained)
    # A test split's rows are numbered in the data that the model was trained on.
    source = report["config"]["dataset_id"] or ",".join(sorted(dataset.digest for dataset in model.datasets)) or None
    return Evaluated(name, table, part, cost, source)
