"""The files of docker/k8s on a cluster: a job through Dagster's own Kubernetes launcher and executor, each step a pod of its own."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import yaml

from llm_platform.settings import Settings, with_driver
from llm_platform.training.tiny_llama import ensure
from tests.docker import helm_chart
from tests.docker.containers import DOCKER, images
from tests.e2e.conftest import leftovers, question_rows, wait_for, write_csv
from tests.e2e.pipelines import BASE_MODEL, MAPPING, chain, edges, everything, node
from tests.executors.kubernetes_cluster import Cluster, Pod, kubernetes
from tests.servers import databases, free_port, rclone_s3, redis_server, stop

pytest.importorskip("dagster_k8s", reason="the extra k8s is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SECONDS = 180.0
STOP_SECONDS = 30.0
GPUS = 1
HEAVY = {"adapters_node", "evaluations_node", "exports_node"}


@dataclass
class Installed:
    """The platform on a cluster."""

    cluster: Cluster
    home: Path
    dagster_home: Path
    nowhere: Path
    services: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    http: httpx.Client = field(init=False)
    dataset: dict[str, str] = field(init=False)

    def post(self, pipeline: dict[str, Any]) -> str:
        answer = self.http.post("/jobs", json={"pipeline_config": pipeline})
        assert answer.is_success, answer.text
        return answer.json()["job_id"]

    def ended(self, job_id: str, seconds: float = 900) -> dict[str, Any]:
        def job() -> dict[str, Any] | None:
            found = self.http.get(f"/jobs/{job_id}").raise_for_status().json()
            return found if found["status"] in ("completed", "failed", "cancelled") else None

        return wait_for(job, seconds, f"{job_id} has ended")

    def lines(self, run_id: str) -> list[dict[str, Any]]:
        return self.http.get(f"/logs/history/{run_id}", params={"limit": 1000}).raise_for_status().json()["logs"]

    def steps(self, run_id: str) -> list[int]:
        """Of the training's log, in the order of its lines."""
        return [line["step"] for line in self.lines(run_id) if line["level"] == "METRIC" and "loss" in line]

    def pod(self, step: str) -> Pod:
        """The last one of a step, or of a run."""
        return next(pod for pod in reversed(self.cluster.history) if op(pod) == step)


def op(pod: Pod) -> str:
    """Of the labels' `adapters.adapters_node-training-`, in which nothing stands as it was: adapters_node."""
    return pod.labels.get("dagster/op", "run").split("-")[0].split(".")[-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    tmp = tmp_path_factory.mktemp("cluster")
    home, workspace = tmp / "data", tmp / "workspace.yaml"
    # The chart gives a file there to the daemon, and nothing to the others: what is not there must not be needed.
    dagster_home, nowhere = tmp / "dagster_home", tmp / "no_dagster_home"
    (home / "dagster").mkdir(parents=True)
    dagster_home.mkdir()
    base = ensure(Settings().cache)
    with ExitStack() as stack:
        s3 = stack.enter_context(rclone_s3(tmp))
        redis = stack.enter_context(redis_server(tmp))
        make = stack.enter_context(databases("postgres", tmp))
        urls = {name: with_driver(make(name)) for name in ("platform", "dagster", "mlflow")}
        ports = {name: free_port() for name in ("llm-platform-code:4000", "llm-platform-mlflow:5000")}
        places = {"https://s3.example.test": s3.endpoint, "/dagster-workspace/workspace.yaml": str(workspace)}
        places |= {"/opt/dagster/dagster_home": str(nowhere), str(dagster_home): str(nowhere)}
        places |= {name: f"127.0.0.1:{port}" for name, port in ports.items()}

        def translate(text: str) -> str:
            for place, here in places.items():
                text = text.replace(place, here)
            return re.sub(r"^/data\b", str(home), text)

        image = images(DOCKER / "Dockerfile")["dagster"]
        environment = {name: translate(value) for name, value in image.environment.items()}
        environment |= {"LLM_PLATFORM_CACHE": str(base.parent), "LLM_PLATFORM_THREADS": "1"}
        environment.pop("PATH")
        cluster, kubeconfig = stack.enter_context(kubernetes(tmp / "pods", gpus=GPUS, environment=environment))
        cluster.translate = translate
        cluster.maps |= helm_chart.config_maps()
        cluster.claims |= {one["metadata"]["name"] for one in helm_chart.manifests() if one["kind"] == "PersistentVolumeClaim"}
        cluster.secrets["llm-platform"] = {
            "postgresql-password": "secret",
            "LLM_PLATFORM_DATABASE_URL": urls["platform"],
            "LLM_PLATFORM_MLFLOW_DATABASE_URL": urls["mlflow"],
            "LLM_PLATFORM_REDIS_URL": redis,
            "LLM_PLATFORM_S3_ACCESS_KEY": s3.access_key,
            "LLM_PLATFORM_S3_SECRET_KEY": s3.secret_key,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        }
        instance = yaml.safe_load(cluster.maps["dagster-instance"]["dagster.yaml"])
        url = sa.make_url(urls["dagster"])
        for name in ("schedule_storage", "run_storage", "event_log_storage"):
            socket = {"username": url.username, "hostname": "localhost", "params": dict(url.query)}
            instance[name]["config"]["postgres_db"] |= socket
        # In a cluster each pod has a token of its account; here all have this file.
        instance["run_launcher"]["config"] |= {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig)}
        for folder in (home / "dagster", dagster_home):
            (folder / "dagster.yaml").write_text(translate(yaml.safe_dump(instance)))
        dagster_home.chmod(0o555)
        servers = yaml.safe_load(cluster.maps["dagster-workspace-yaml"]["workspace.yaml"])
        for server in servers["load_from"]:
            server["grpc_server"] |= {"host": "127.0.0.1", "port": ports[f"{server['grpc_server']['host']}:4000"]}
        for path in (home / "workspace.yaml", workspace):
            path.write_text(yaml.safe_dump(servers))

        up = Installed(cluster, home, dagster_home, nowhere)
        stack.callback(lambda: stop(up.services.values(), STOP_SECONDS))

        def environment_of(maps: list[str], **more: str) -> dict[str, str]:
            given = {name: value for one in maps for name, value in cluster.maps[one].items()}
            given |= {**cluster.secrets["llm-platform"]}
            given |= {"DAGSTER_PG_PASSWORD": "secret", **more}
            return cluster.environment | {name: translate(value) for name, value in given.items()}

        def start(name: str, command: list[str], environment: dict[str, str]) -> None:
            with (tmp / f"{name}.log").open("wb") as log:
                up.services[name] = subprocess.Popen(command, env=environment, cwd=tmp, stdout=log, stderr=log, start_new_session=True)

        settings = "llm-platform-settings"
        mlflow = images(DOCKER / "Dockerfile")["mlflow"]
        start(
            "mlflow",
            [*mlflow.entrypoint, "--port", str(ports["llm-platform-mlflow:5000"])],
            environment_of([settings], LLM_PLATFORM_HOME=str(tmp)),
        )
        command, added, maps = helm_chart.code_server()
        command[command.index("4000")] = str(ports["llm-platform-code:4000"])
        start("code", command, environment_of(maps, **added))
        command, maps = helm_chart.daemon()
        start("daemon", [translate(part) for part in command], environment_of(maps) | {"DAGSTER_HOME": str(dagster_home)})
        port = free_port()
        api = images(DOCKER / "Dockerfile")["api"]
        environment = environment_of(["dagster-webserver-env", settings])
        start("api", [*api.entrypoint, "--port", str(port)], environment)

        def healthy() -> bool:
            for name, process in up.services.items():
                assert process.poll() is None, f"{name} ended:\n{(tmp / f'{name}.log').read_text()[-3000:]}"
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "healthy"
            except (httpx.HTTPError, json.JSONDecodeError):
                return False

        wait_for(healthy, SECONDS, "the API is healthy")
        create = [*api.entrypoint[:1], "keys", "create", "ada", "--scope", "admin"]
        key = subprocess.run(create, env=environment, cwd=tmp, capture_output=True, text=True, check=True, timeout=120).stdout.strip()
        up.http = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60)
        )
        table = write_csv(tmp / "rows.csv", question_rows(60))
        with table.open("rb") as file:
            answer = up.http.post("/datasets/upload", files={"file": (table.name, file)}).raise_for_status()
        up.dataset = {"dataset_id": answer.json()["dataset_id"]}
        yield up
    wait_for(lambda: not leftovers(home), 30, "no process is left")


@pytest.fixture(autouse=True)
def no_pods_left(installed: Installed) -> Iterator[None]:
    """A test that fails must not keep the GPU from those behind it."""
    yield
    while installed.cluster.running():
        for pod in installed.cluster.history:
            pod.kill()


def test_the_same_pipeline_runs_in_a_pod_per_step(installed: Installed) -> None:
    job = installed.ended(installed.post(everything(installed.dataset, run_id="podded")))
    assert job["status"] == "completed", (job, installed.lines("podded"), installed.cluster.refused)
    assert set(job["progress"]["completed_agents"]) == {"dataset", "validation", "preprocessing", "training", "evaluation", "export"}
    assert installed.http.get("/models/model_podded/download", params={"format": "merged"}).is_success
    assert "## Evaluation Metrics" in installed.http.get("/models/model_podded/card").text

    wait_for(lambda: not installed.cluster.running(), 60, "the run's pod has ended")
    assert installed.cluster.refused == []
    assert {pod.manifest["status"]["phase"] for pod in installed.cluster.history} == {"Succeeded"}
    steps = [op(pod) for pod in installed.cluster.history]
    assert len(steps) == 1 + 3 * 6 and steps[0] == "run" and set(steps) > HEAVY
    assert {op(pod) for pod in installed.cluster.history if pod.gpus} == HEAVY
    assert [path.name for path in installed.dagster_home.iterdir()] == ["dagster.yaml"] and not installed.nowhere.exists(), (
        "nobody may write there in a cluster"
    )


def short(dataset: dict[str, str], run_id: str, retries: int = 0, **training: Any) -> dict[str, Any]:
    """A job whose training writes a checkpoint every few steps."""
    return chain(
        node("dataset", "DatasetAgent", **dataset),
        node("preprocessing", "PreprocessingAgent", base_model=BASE_MODEL, template="alpaca", template_mapping=MAPPING),
        node("training", "TrainingAgent", **({"batch_size": 4, "checkpoint_every": 2, "max_steps": 100_000} | training)),
        run_id=run_id,
        global_config={"max_retries": retries},
    )


def is_past_a_checkpoint(installed: Installed, run_id: str) -> bool:
    return max(installed.steps(run_id), default=0) > 4


def resumed(installed: Installed, run_id: str) -> tuple[int, list[int]]:
    """The step of the checkpoint that the training went on from, and the steps after it."""
    lines = installed.lines(run_id)
    (at,) = (index for index, line in enumerate(lines) if "Resuming from the checkpoint" in line["message"])
    return lines[at]["step"], [line["step"] for line in lines[at + 1 :] if line["level"] == "METRIC" and "loss" in line]


def test_a_training_whose_pod_dies_goes_on_in_another_one(installed: Installed) -> None:
    job_id = installed.post(short(installed.dataset, "again", retries=1, max_steps=40))
    wait_for(lambda: is_past_a_checkpoint(installed, "again"), SECONDS, "training is past a checkpoint")
    first = installed.pod("adapters_node")
    first.kill()
    job = installed.ended(job_id)
    assert job["status"] == "completed", (job, installed.lines("again"))
    checkpoint, steps = resumed(installed, "again")
    assert 4 <= checkpoint < steps[0] and steps[-1] == 40 and steps == sorted(set(steps))
    assert installed.pod("adapters_node") is not first and installed.pod("adapters_node").gpus == 1


def test_a_job_without_retries_fails_with_its_pod_goes_on_when_tried_again_and_is_cancelled(installed: Installed) -> None:
    job_id = installed.post(short(installed.dataset, "lost"))
    wait_for(lambda: is_past_a_checkpoint(installed, "lost"), SECONDS, "training is past a checkpoint")
    installed.pod("adapters_node").kill()
    job = installed.ended(job_id, seconds=60)
    assert job["status"] == "failed" and job["result"]["error"]["metadata"]["agent"] == "training", job
    assert "ended without saying why" in job["result"]["error"]["message"]

    installed.http.post(f"/jobs/{job_id}/retry").raise_for_status()
    wait_for(lambda: any("Resuming from the checkpoint" in line["message"] for line in installed.lines("lost")), SECONDS, "it goes on")
    assert resumed(installed, "lost")[0] >= 4
    training = installed.pod("adapters_node")
    installed.http.delete(f"/jobs/{job_id}").raise_for_status()
    assert installed.ended(job_id, seconds=60)["status"] == "cancelled"
    assert training.ended.wait(60) and not training.processes()
    wait_for(lambda: installed.cluster.running() == [], 60, "no pod is left")


def test_no_pod_of_a_step_outlives_its_run(installed: Installed) -> None:
    """It would train on, beside that of a retry."""
    job_id = installed.post(short(installed.dataset, "headless"))
    wait_for(lambda: is_past_a_checkpoint(installed, "headless"), SECONDS, "training has begun")
    training = installed.pod("adapters_node")
    installed.pod("run").kill()
    job = installed.ended(job_id, seconds=60)
    assert job["status"] == "failed", job
    assert training.ended.wait(60) and not training.processes()
    assert installed.cluster.running() == []
    assert installed.http.get(f"/jobs/{job_id}").json()["status"] == "failed"


def test_what_training_has_is_kept_where_it_is_asked_for(installed: Installed) -> None:
    pipeline = short(installed.dataset, "kept")
    pipeline["nodes"].append(node("evaluation", "EvaluationAgent", max_samples=2, max_new_tokens=2))
    pipeline["edges"] += edges(("training", "evaluation"))
    job_id = installed.post(pipeline)
    wait_for(lambda: is_past_a_checkpoint(installed, "kept"), SECONDS, "training has begun")
    answer = installed.http.delete(f"/jobs/{job_id}", params={"keep": True}).raise_for_status()
    assert answer.json()["keeps"] == ["training"]
    job = installed.ended(job_id, seconds=90)
    assert (job["status"], job["model_id"]) == ("cancelled", "model_kept"), job
    wait_for(lambda: installed.cluster.running() == [], 60, "no pod is left")
    assert installed.http.get("/models/model_kept/download", params={"format": "adapter"}).is_success
