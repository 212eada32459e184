"""Heavy nodes on a real Ray cluster of two machines (two raylets): the same results, nothing left behind, and nothing lost with one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from dagster_project import keeper
from llm_platform import runlog
from llm_platform.agents import Platform
from llm_platform.errors import InvalidConfig
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings
from llm_platform.specs import TrainingConfig
from llm_platform.training.tiny_llama import ensure
from llm_platform.training.train import train
from tests.e2e.conftest import is_training, leftovers, node_processes, platform, question_rows, wait_for, write_csv
from tests.e2e.pipelines import chain, node, up_to_training
from tests.executors.ray_cluster import add_node, ray_cluster
from tests.tiny_models import COLOURS, make_base

ROOT = Path(__file__).resolve().parents[2]
TRAINING: dict[str, Any] = {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-2, "lora_r": 4}
ENDLESS = TRAINING | {"max_steps": 100_000, "checkpoint_every": 5}


class Home:
    """A platform without services, whose heavy nodes are placed on the cluster, and run workers of it."""

    def __init__(self, folder: Path, cluster: Any) -> None:
        make_base(folder / "models" / "base")
        rows = "".join(f"{one} {two} w{number},{one}\n" for number, one in enumerate(COLOURS) for two in COLOURS[:5])
        (folder / "rows.csv").write_text(f"instruction,output\n{rows}")
        self.folder, self.base = folder, folder / "models" / "base"
        self.variables = {
            "LLM_PLATFORM_HOME": str(folder / "home"),
            "LLM_PLATFORM_MODEL_ROOTS": json.dumps([str(folder / "models")]),
            "LLM_PLATFORM_EXECUTOR": "ray",
            "LLM_PLATFORM_RAY_ADDRESS": cluster.address,
            "LLM_PLATFORM_THREADS": "1",
        }
        self.platform = Platform.from_settings(Settings(home=folder / "home"))
        self.platform.storage.put_file(folder / "rows.csv", "s3://datasets/rows.csv")

    def pipeline(self, run_id: str, *after: dict[str, Any], retries: int = 0, **training: Any) -> dict[str, Any]:
        return chain(
            node("dataset", "DatasetAgent", file_path="s3://datasets/rows.csv"),
            node("preprocessing", "PreprocessingAgent", base_model=str(self.base), max_length=64),
            node("training", "TrainingAgent", **TRAINING | training),
            *after,
            run_id=run_id,
            global_config={"max_retries": retries},
        )

    @contextmanager
    def run_worker(self, pipeline: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
        """A process of its own that runs the pipeline; killed with the block."""
        config = self.folder / f"{pipeline['run_id']}.json"
        config.write_text(json.dumps(pipeline))
        command = [sys.executable, "-m", "tests.executors.run_pipeline", str(config)]
        with subprocess.Popen(command, cwd=ROOT, env=os.environ | self.variables) as process:
            try:
                yield process
            finally:
                process.kill()

    def lines(self, run_id: str) -> list[dict[str, Any]]:
        return [line for _, line in runlog.read(self.platform.database, run_id)]

    def steps(self, run_id: str) -> list[int]:
        """Of the training's log, in the order of its lines."""
        return [line["step"] for line in self.lines(run_id) if line["level"] == "METRIC" and "loss" in line]

    def status(self, run_id: str, agent_name: str) -> str:
        row = self.platform.database.node(run_id, agent_name)
        assert row is not None
        return row["status"]

    def nothing_left(self, run_id: str) -> bool:
        """No process of a node, or of what keeps it: neither here nor on the cluster's nodes; and nothing half-written of that run."""
        return not leftovers(self.folder / "home") and not list((self.platform.settings.work / run_id).glob("*.tmp"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(2) as made:
        yield made


@pytest.fixture(scope="module")
def home(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("platform"), cluster)
    yield made
    made.platform.close()


def test_two_processes_on_two_machines_train_what_two_on_one_do_and_the_model_is_evaluated(home: Home, tmp_path: Path) -> None:
    evaluation = node("evaluation", "EvaluationAgent", max_samples=2)
    with home.run_worker(home.pipeline("both", evaluation, devices=2, lora_dropout=0.1)) as worker:
        assert worker.wait(500) == 0, home.lines("both")
    assert {home.status("both", name) for name in ("training", "evaluation")} == {"completed"}
    assert home.steps("both") == [1, 2, 3, 4], "rank 0 alone reports"
    wait_for(lambda: home.nothing_left("both"), 30, "no process is left")

    config = TrainingConfig(**TRAINING, devices=2, lora_dropout=0.1)
    assert_as_on_one_machine(home, "both", config, "adapter", "adapter_model.safetensors", tmp_path)


def assert_as_on_one_machine(home: Home, run_id: str, config: TrainingConfig, artifact: str, file: str, tmp_path: Path) -> None:
    """The weights that the run has made are, to the bit, those of the same training by processes of this machine."""
    made, prepared = (home.platform.database.node(run_id, name) for name in ("training", "preprocessing"))
    assert made is not None and prepared is not None
    there = home.platform.storage.as_local(made["result"]["artifacts"][artifact], tmp_path / "there")
    splits = home.platform.storage.as_local(prepared["result"]["artifacts"]["splits"], tmp_path / "splits")
    train(config, home.base, splits, tmp_path / "here", tmp_path / "work", ListReporter(), base_name="base", threads=1)
    found, expected = (load_file(folder / file) for folder in (there, tmp_path / "here"))
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name].equal(expected[name]), name


def test_another_machine_must_reach_what_it_writes_to(home: Home, tmp_path: Path) -> None:
    from dagster_project.ray_workers import check_reach

    home_alone, database = Settings(home=tmp_path), "postgresql://db.example.test/platform"
    check_reach(home_alone, [])
    with pytest.raises(InvalidConfig, match="what LLM_PLATFORM_DATABASE_URL and LLM_PLATFORM_MLFLOW_URL name"):
        check_reach(home_alone, ["198.51.100.9"])
    with pytest.raises(InvalidConfig, match="what LLM_PLATFORM_MLFLOW_URL name"):
        check_reach(Settings(home=tmp_path, database_url=database, mlflow_url="http://127.0.0.1:5000"), ["198.51.100.9"])
    check_reach(Settings(home=tmp_path, database_url=database, mlflow_url="http://mlflow.example.test"), ["198.51.100.9"])


@pytest.mark.slow
def test_a_cancelled_run_leaves_no_process(home: Home) -> None:
    with home.run_worker(home.pipeline("cancelled", **ENDLESS)) as worker:
        wait_for(lambda: home.steps("cancelled"), 300, "training has begun")
        worker.send_signal(signal.SIGINT)
        assert worker.wait(60) == 1
    wait_for(lambda: home.nothing_left("cancelled"), 10, "no process is left")
    assert home.lines("cancelled")[-1]["message"] == "Cancelled"


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_killed_run_worker_leaves_no_process(home: Home, devices: int) -> None:
    run_id = f"killed-{devices}"
    with home.run_worker(home.pipeline(run_id, **ENDLESS, devices=devices)) as worker:
        wait_for(lambda: home.steps(run_id), 300, "training has begun")
        worker.kill()
    wait_for(lambda: not leftovers(home.folder / "home"), 30, "no process is left")


@pytest.mark.slow
def test_a_model_is_sharded_over_two_machines_as_over_two_processes_of_one(home: Home, tmp_path: Path) -> None:
    """By FSDP2."""
    options = {name: value for name, value in TRAINING.items() if name != "lora_r"} | {"method": "full", "devices": 2, "sharding": "full"}
    pipeline = home.pipeline("sharded")
    pipeline["nodes"][-1]["config"] = options
    with home.run_worker(pipeline) as worker:
        assert worker.wait(500) == 0, home.lines("sharded")
    assert home.steps("sharded") == [1, 2, 3, 4]
    assert_as_on_one_machine(home, "sharded", TrainingConfig(**options), "model", "model.safetensors", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_training_that_loses_a_machine_goes_on_from_its_checkpoint(home: Home, cluster: Any, sharding: str) -> None:
    run_id = f"lost-{sharding}"
    pipeline = home.pipeline(run_id, devices=2, sharding=sharding, max_steps=300, checkpoint_every=5, retries=2)
    with home.run_worker(pipeline) as worker:
        wait_for(lambda: max(home.steps(run_id), default=0) > 12, 300, "training is past a checkpoint")
        (machine,) = cluster.worker_nodes
        cluster.remove_node(machine, allow_graceful=False)
        add_node(cluster)
        assert worker.wait(400) == 0, home.lines(run_id)
    lines = home.lines(run_id)
    (at,) = (index for index, line in enumerate(lines) if "Resuming from the checkpoint" in line["message"])
    steps = [line["step"] for line in lines[at + 1 :] if line["level"] == "METRIC" and "loss" in line]
    assert 10 <= lines[at]["step"] < steps[0] and steps[-1] == 300
    assert steps == sorted(set(steps))
    assert home.status(run_id, "training") == "completed"
    wait_for(lambda: home.nothing_left(run_id), 30, "no process is left")


@pytest.mark.slow
def test_a_job_of_the_api_runs_on_the_cluster_and_is_cancelled_there(cluster: Any, tmp_path: Path) -> None:
    ensure(Settings().cache)
    with platform(tmp_path / "home", LLM_PLATFORM_EXECUTOR="ray", LLM_PLATFORM_RAY_ADDRESS=cluster.address) as up:
        dataset = {"dataset_id": up.upload(write_csv(tmp_path / "rows.csv", question_rows(60)))["dataset_id"]}
        up.post_job(up_to_training(dataset, run_id="there"))
        job = up.wait_job("job_there", seconds=500)
        assert job["status"] == "completed", job
        assert up.http.get(f"/models/{job['model_id']}").status_code == 200

        up.post_job(up_to_training(dataset, run_id="endless", max_steps=100_000))
        wait_for(lambda: is_training(up, "endless"), 300, "training has begun")
        (process,) = node_processes(up)
        parent = process.parent()
        assert parent is not None and keeper.__name__ in parent.cmdline(), "it is not a fork of the platform's service"
        up.http.delete("/jobs/job_endless").raise_for_status()
        assert up.wait_job("job_endless", seconds=60)["status"] == "cancelled"
        wait_for(lambda: not node_processes(up), 30, "the process is gone")
