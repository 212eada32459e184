"""The definitions and the run config for Kubernetes: which steps' pods have GPUs, and how many. No cluster is needed for that, or used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_platform.settings import Settings
from llm_platform.specs import parse_pipeline, run_config
from tests.e2e.pipelines import node

pytest.importorskip("dagster_k8s", reason="the extra k8s is not installed")

STEP_OF = {"adapters_node", "evaluations_node", "exports_node"}
DEFINITIONS = """
import json, sys, warnings
warnings.simplefilter("ignore")
import dagster as dg
from dagster_project.definitions import defs

job = defs.resolve_job_def("pipeline")
tags = {op.name: op.tags["dagster-k8s/config"] for op in job.graph.iterate_op_defs() if "dagster-k8s/config" in op.tags}
dg.validate_run_config(job, json.load(sys.stdin))
tags = {name: json.loads(text) for name, text in tags.items()}
print(json.dumps({"executor": job.executor_def.name, "tags": tags, "modules": sorted({"ray", "kubernetes"} & set(sys.modules))}))
"""


def config(*devices: int, gpu_pods: bool = True) -> dict[str, Any]:
    trainings = [node(f"training-{count}", "TrainingAgent", devices=count, batch_size=8) for count in devices]
    nodes = [
        node("dataset", "DatasetAgent", dataset_id="ds_1"),
        node("preprocessing", "PreprocessingAgent", base_model="llm-platform/tiny-llama"),
        *trainings,
    ]
    edges = [{"from_agent": "dataset", "to_agent": "preprocessing"}]
    edges += [{"from_agent": "preprocessing", "to_agent": training["agent_name"]} for training in trainings]
    return run_config(parse_pipeline({"nodes": nodes, "edges": edges}), gpu_pods=gpu_pods)


def definitions(home: Path, run: dict[str, Any], **variables: str) -> dict[str, Any]:
    """What a code server of this environment would load."""
    env = os.environ | {"LLM_PLATFORM_HOME": str(home)} | {f"LLM_PLATFORM_{name}": value for name, value in variables.items()}
    done = subprocess.run(
        [sys.executable, "-c", DEFINITIONS], input=json.dumps(run), capture_output=True, text=True, env=env, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_steps_of_heavy_nodes_have_a_gpu_and_a_training_as_many_as_it_needs(tmp_path: Path) -> None:
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

    run = config(2, 4)
    found = definitions(tmp_path, run, EXECUTOR="k8s")
    assert found["executor"] == "k8s"
    assert set(found["tags"]) == STEP_OF
    per_step = run["execution"]["config"]["per_step_k8s_config"]
    for step, gpus in [("adapters_node", "4"), ("evaluations_node", "1")]:
        context = K8sContainerContext()
        for asked in (found["tags"][step], per_step.get(step, {})):  # in the order in which the executor merges them
            context = context.merge(K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(asked)))
        job = construct_dagster_k8s_job(
            DagsterK8sJobConfig(job_image="image", dagster_home="/data/dagster"), ["run"], "job", context.run_k8s_config
        )
        (container,) = job.to_dict()["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": gpus}


def test_other_executors_ask_for_nothing_and_import_neither_ray_nor_kubernetes(tmp_path: Path) -> None:
    for executor in ("local", "ray"):
        found = definitions(tmp_path, config(2, gpu_pods=False), EXECUTOR=executor)
        assert found == {"executor": "in_process", "tags": {}, "modules": []}


def test_a_cluster_without_gpus() -> None:
    assert Settings(executor="k8s").gpu_pods and not Settings(executor="k8s", cluster_gpus=False).gpu_pods
    assert not Settings(executor="ray").gpu_pods
    assert set(config(1)) == set(config(4, gpu_pods=False)) == {"ops"}
