"""A base model's answers are computed once for the same rows and settings, whoever's job asks for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llm_platform.agents import Node, Platform, run_node
from llm_platform.evaluation.base_cache import base_key
from llm_platform.reporting import ListReporter
from llm_platform.specs import EvaluationConfig
from llm_platform.specs.results import NodeResult
from tests.tiny_models import make_base, make_rows, write_split

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning",
    "ignore:.*Any type hint is inferred as AnyType:UserWarning",  # when MLflow imports its own module
)
SPLIT = {"train": 0.5, "validation": 0.0, "test": 0.5, "near_duplicates": "ignore"}


@pytest.fixture(scope="module")
def platform(bare_platform: Platform, base: Path) -> Platform:
    """The jobs of two people, who tuned one base on one file: an adapter, and a whole model."""
    for run_id, owner, method in (("ada-1", "ada", "lora"), ("bob-1", "bob", "full")):
        bare_platform.database.accept(run_id, dagster_run_id=run_id, digest="x", pipeline={}, owner=owner)
        run(bare_platform, run_id, "rows", "DatasetAgent", [], file_path="s3://datasets/rows.csv")
        run(bare_platform, run_id, "splits", "PreprocessingAgent", ["rows"], base_model=str(base), template="plain", split=SPLIT)
        run(bare_platform, run_id, "training", "TrainingAgent", ["splits"], method=method, max_steps=2)
    return bare_platform


def run(
    platform: Platform, run_id: str, name: str, kind: str, inputs: list[str], reporter: ListReporter | None = None, **config: Any
) -> NodeResult:
    body = {"run_id": run_id, "agent_name": name, "agent_class": kind, "inputs": inputs, "peers": 3, "config": config}
    return run_node(platform, Node.from_dict(body), reporter or ListReporter())


def evaluate(platform: Platform, run_id: str, name: str, **config: Any) -> tuple[dict[str, Any], pl.DataFrame, ListReporter]:
    """The report that is kept, the examples, and what was told."""
    reporter = ListReporter()
    result = run(platform, run_id, name, "EvaluationAgent", ["training"], reporter, **{"max_new_tokens": 4, **config})
    folder = platform.storage.as_local(result.artifacts["evaluation"], platform.settings.work / "inputs")
    return json.loads((folder / "evaluation.json").read_text("utf-8")), pl.read_parquet(folder / "examples.parquet"), reporter


def asked_the_base(reporter: ListReporter) -> bool:
    return any(what == "answers of the base model" for level, what, _ in reporter.lines if level == "PROGRESS")


def test_another_job_uses_what_the_base_answered(platform: Platform) -> None:
    first, first_table, told = evaluate(platform, "ada-1", "scores")
    assert first["base_reused"] is False and asked_the_base(told)
    second, second_table, told = evaluate(platform, "bob-1", "scores")
    assert second["base_reused"] is True and not asked_the_base(told)
    assert "its answers are used" in " ".join(text for level, text, _ in told.lines if level == "INFO")
    assert (second["base"], second["intervals"]["base"]) == (first["base"], first["intervals"]["base"])
    assert second["costs"]["base"] == first["costs"]["base"] and second["confusion"] == first["confusion"]
    columns = [name for name in first_table.columns if name.startswith("base_")]
    assert len(columns) > 5 and second_table.select(columns).equals(first_table.select(columns))
    assert second_table.columns == first_table.columns


def test_another_setting_asks_again(platform: Platform) -> None:
    evaluate(platform, "ada-1", "before")
    report, _, told = evaluate(platform, "bob-1", "longer", max_new_tokens=5)
    assert report["base_reused"] is False and asked_the_base(told)
    report, _, told = evaluate(platform, "bob-1", "alone", include_base=False)
    assert (report["base_reused"], report["base"]) == (False, None) and not asked_the_base(told)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(tmp_path_factory.mktemp("rows") / "test.parquet", make_rows(4, 1))


CONFIG = EvaluationConfig(metrics=["accuracy", "loss"])


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"max_samples": 3}, False),
        ({"max_new_tokens": 3}, False),
        ({"batch_size": 3}, False),
        ({"metrics": ["accuracy"]}, False),
        ({"metrics": ["loss"]}, False),
        ({"metrics": ["f1", "perplexity"]}, True),  # which follow from the same answers and losses
        ({"dataset_id": "ds_1"}, True),  # the rows themselves count
    ],
)
def test_what_the_key_depends_on(changes: dict[str, Any], same: bool, base: Path, rows: Path) -> None:
    changed = base_key(CONFIG.model_copy(update=changes), base, base, rows)
    assert (changed == base_key(CONFIG, base, base, rows)) is same


def test_other_files_are_another_key(base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = base_key(CONFIG, base, base, rows)
    copied = Path(shutil.copytree(base, tmp_path / "copied"))
    assert base_key(CONFIG, copied, copied, rows) == known
    other_rows = write_split(tmp_path / "test.parquet", make_rows(4, 2))
    other_base = make_base(tmp_path / "other", tied=False)
    other_ends = Path(shutil.copytree(base, tmp_path / "ends"))
    (other_ends / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    other_tokenizer = Path(shutil.copytree(base, tmp_path / "tokenizer"))
    tokenizer = other_tokenizer / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text("utf-8").replace("w69", "w70"), "utf-8")
    monkeypatch.setattr("llm_platform.evaluation.base_cache.CODE_VERSION", "evaluation-0")
    older = base_key(CONFIG, base, base, rows)
    monkeypatch.undo()
    others = [
        base_key(CONFIG, base, base, other_rows),
        base_key(CONFIG, other_base, base, rows),
        base_key(CONFIG, base, other_ends, rows),
        base_key(CONFIG, base, other_tokenizer, rows),
        older,
    ]
    assert len({known, *others}) == 6
