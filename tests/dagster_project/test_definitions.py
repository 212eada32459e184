"""The definitions as Dagster loads them, and specs on their way through its config system."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import dagster as dg
import pytest

from dagster_project.config import as_dagster, stage_config
from dagster_project.stage import _mapping_key
from llm_platform.specs import CONFIGS, STAGES, AgentClass, parse_pipeline, run_config, stages

FULL: dict[str, Any] = {
    "nodes": [
        {"agent_name": "rows", "agent_class": "DatasetAgent", "config": {"file_path": "s3://datasets/x.csv", "limit": 5}},
        {"agent_name": "checked", "agent_class": "ValidationAgent", "config": {"rules": {"required_columns": ["q"]}, "on_error": "warn"}},
        {"agent_name": "splits", "agent_class": "PreprocessingAgent", "config": {"base_model": "a/b", "template_mapping": {"input": "i"}}},
        {"agent_name": "all-linear", "agent_class": "TrainingAgent", "config": {"learning_rate": 1, "lora_alpha": 32}},
        {"agent_name": "named", "agent_class": "TrainingAgent", "config": {"target_modules": ["q_proj"], "max_steps": 3}},
        {"agent_name": "scores", "agent_class": "EvaluationAgent", "config": {"metrics": ["f1"]}},
        {"agent_name": "choice", "agent_class": "ComparisonAgent", "config": {"metric": "f1", "min_gain": 1, "max_regressions": 2}},
        {"agent_name": "files", "agent_class": "ExportAgent"},
        {
            "agent_name": "report",
            "agent_class": "NotebookAgent",
            "config": {"parameters": {"a": 1, "b": None, "c": "x", "d": 0.5, "e": True}},
        },
    ],
    "edges": [
        {"from_agent": source, "to_agent": target}
        for source, target in [
            ("rows", "checked"),
            ("checked", "splits"),
            ("splits", "all-linear"),
            ("splits", "named"),
            ("all-linear", "scores"),
            ("named", "scores"),
            ("scores", "choice"),
            ("named", "files"),
            ("scores", "report"),
        ]
    ],
    "global_config": {"max_retries": 2},
}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dagster's own use of pydantic names that pydantic calls deprecated
        from dagster_project.definitions import defs

        return defs


def test_a_pipelines_run_config_is_what_the_job_takes(definitions: dg.Definitions) -> None:
    pipeline = parse_pipeline(FULL)
    assert stages(pipeline) == list(STAGES.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        job = definitions.resolve_job_def("pipeline")
        assert dg.validate_run_config(job, run_config(pipeline))
    for node in pipeline.nodes:
        shown = as_dagster(CONFIGS[node.agent_class])(**node.config.model_dump(mode="json"))
        assert CONFIGS[node.agent_class].model_validate(shown.model_dump()) == node.config


@pytest.mark.parametrize("agent_class", list(AgentClass))
def test_the_launchpad_shows_every_field(agent_class: AgentClass) -> None:
    assert set(as_dagster(CONFIGS[agent_class]).model_fields) == set(CONFIGS[agent_class].model_fields)
    assert stage_config(agent_class).to_config_schema().as_field()


def test_the_launchpad_refuses_unknown_fields(definitions: dg.Definitions) -> None:
    config = run_config(parse_pipeline(FULL))
    config["ops"]["adapters"]["config"]["nodes"][0]["config"]["lora_rank"] = 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        job = definitions.resolve_job_def("pipeline")
        with pytest.raises(dg.DagsterInvalidConfigError, match="lora_rank"):
            dg.validate_run_config(job, config)


def test_every_stage_is_an_asset_behind_its_inputs(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    behind = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys} for key in graph.get_all_asset_keys()
    }
    assert set(behind) == {"uploaded_dataset", *STAGES.values(), "dataset_report", "model_report"}
    assert behind["dataset"] == {"uploaded_dataset"}
    assert behind["adapters"] == {"preprocessed_splits"}
    assert behind["comparison"] == {"evaluations"} and behind["exports"] == {"adapters", "comparison"}
    assert behind["notebook_reports"] == set(STAGES.values()) - {"notebook_reports"}


def test_mapping_keys_are_unique_and_legal() -> None:
    taken: set[str] = set()
    for name in ("a-b", "a_b", "a_b_2", "a-b-2", "a"):
        key = _mapping_key(name, taken)
        assert key not in taken
        assert key.replace("_", "").isalnum()
        taken.add(key)
    assert all(one != other for one, other in itertools.combinations(taken, 2))
