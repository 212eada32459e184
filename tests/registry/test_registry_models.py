"""The registry over a real MLflow, through a server and without one."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from llm_platform.errors import InvalidConfig, NotFound, ServiceUnavailable
from llm_platform.registry import DatasetInput, MetricBuffer, MetricPoint, RegisteredModel, Registry, card
from llm_platform.specs.comparison import Interval
from tests.servers import free_port, mlflow_server

# MLflow's own tables, with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning")

DATASET = DatasetInput(name="tickets", digest="a1" * 32, source_address="s3://datasets/t.csv", rows=2000, dataset_id="ds_1")
OTHER = DatasetInput(name="more", digest="b2" * 32, source_address="s3://datasets/m.csv")
CONFIG: dict[str, Any] = {"method": "lora", "epochs": 3, "learning_rate": 2e-4, "target_modules": ["q", "v"], "max_steps": None}


def begin(registry: Registry, model_id: str, **changes: Any) -> str:
    values: dict[str, Any] = {
        "model_id": model_id,
        "run_id": model_id.removeprefix("model_"),
        "agent_name": "train",
        "model_name": "tickets",
        "base_model": "llm-platform/tiny-llama",
        "config": CONFIG,
        "tags": {"config_digest": "c3" * 32},
        "datasets": [DATASET, OTHER],
    }
    return registry.begin(**(values | changes))


def made_by_registering(model: RegisteredModel) -> dict[str, str]:
    """The tags that the registry itself adds: digests of the config and of the registered files."""
    found = {name: model.tags[name] for name in ("config_sha256", "registered_files")}
    assert {"MLmodel", "adapter_config.json", "deep/adapter_model.safetensors"} <= json.loads(found["registered_files"]).keys()
    return found


def client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri, registry.tracking_uri)


@pytest.fixture
def model_id(request: pytest.FixtureRequest) -> str:
    return f"model_{request.node.originalname}-{request.node.callspec.params['registry']}"


def test_a_model_comes_back_as_it_was_registered(registry: Registry, model_id: str, adapter: Path, tmp_path: Path) -> None:
    run = begin(registry, model_id)
    assert registry.get(model_id) is None
    assert registry.register(run, adapter, "tickets") == registry.register(run, adapter, "tickets")
    registry.set_metrics(model_id, {"accuracy": 0.5, "base_accuracy": 0.1, "perplexity": math.inf})
    registry.set_metrics(model_id, {"accuracy": 0.25})
    registry.set_export(model_id, "merged", "s3://artifacts/x/merged", "d4" * 32)
    registry.set_tags(model_id, {"base_license": "apache-2.0"})
    model = registry.get(model_id)
    assert model is not None
    assert abs(model.created_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert model.model_dump(exclude={"created_at", "version"}) == {
        "model_id": model_id,
        "run_id": model_id.removeprefix("model_"),
        "agent_name": "train",
        "model_name": "tickets",
        "base_model": "llm-platform/tiny-llama",
        "mlflow_run_id": run,
        "datasets": [DATASET.model_dump(), OTHER.model_dump()],
        "aliases": [],
        "description": f"Fine-tuned from llm-platform/tiny-llama by the node train of the job {model_id.removeprefix('model_')}.",
        "training_config": CONFIG,
        "metrics": {"accuracy": 0.25, "base_accuracy": 0.1},
        "intervals": {},
        "exports": {"merged": "s3://artifacts/x/merged"},
        "export_digests": {"merged": "d4" * 32},
        "gates": {},
        "tags": {"config_digest": "c3" * 32, "base_license": "apache-2.0", **made_by_registering(model)},
    }
    assert model.dataset_ids == ["ds_1"]
    assert model in list(registry.all())
    copy = registry.fetch_adapter(model_id, tmp_path / "out")
    assert (copy / "deep" / "adapter_model.safetensors").read_bytes() == bytes(range(256)) * 100


def test_mlflow_users_find_what_they_expect(registry: Registry, model_id: str, adapter: Path, tmp_path: Path) -> None:
    run_id = begin(registry, model_id)
    version = registry.register(run_id, adapter, "tickets")
    found = client(registry)
    run = found.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.0002"
    assert run.data.params["target_modules"] == '["q", "v"]'
    assert run.data.tags["llm_platform.base_model"] == "llm-platform/tiny-llama"
    assert run.inputs is not None
    assert [(item.dataset.name, item.dataset.source_type) for item in run.inputs.dataset_inputs] == [("tickets", "s3"), ("more", "s3")]
    assert found.get_model_version("tickets", version).run_id == run_id
    assert "by the node train" in str(found.get_model_version("tickets", version).description)
    got = download_artifacts(f"runs:/{run_id}/adapter", tracking_uri=registry.tracking_uri, dst_path=str(tmp_path / "out"))
    assert {path.name for path in adapter.iterdir()} | {"MLmodel"} <= {path.name for path in Path(got).iterdir()}


def test_curves_are_kept_apart_from_final_figures(registry: Registry, model_id: str, adapter: Path) -> None:
    run = begin(registry, model_id)
    with MetricBuffer(registry, run) as buffer:
        for step in range(2500):
            buffer.add([MetricPoint("loss", 1 / (step + 1), step, 1_700_000_000_000 + step)])
    registry.register(run, adapter, "tickets")
    registry.set_metrics(model_id, {"loss": 0.5})
    history = client(registry).get_metric_history(run, "train/loss")
    assert sorted(point.step for point in history) == list(range(2500))
    model = registry.get(model_id)
    assert model is not None
    assert model.metrics == {"loss": 0.5}


def test_an_unfinished_run_is_ended_before_the_next_try(registry: Registry, model_id: str, adapter: Path) -> None:
    first, second = begin(registry, model_id), begin(registry, model_id)
    third = begin(registry, model_id)
    registry.fail(second)
    assert len({first, second, third}) == 3
    assert client(registry).get_run(first).info.status == "KILLED"
    assert client(registry).get_run(second).info.status == "KILLED"
    registry.register(third, adapter, "tickets")
    registry.fail(third)
    assert client(registry).get_run(third).info.status == "FINISHED"
    assert begin(registry, model_id) == third
    assert [model.mlflow_run_id for model in registry.all() if model.model_id == model_id] == [third]


def test_a_failed_run_is_no_model(registry: Registry, model_id: str) -> None:
    run = begin(registry, model_id)
    registry.fail(run)
    assert client(registry).get_run(run).info.status == "FAILED"
    assert registry.get(model_id) is None
    assert begin(registry, model_id) != run


def test_a_large_config_comes_back_whole(registry: Registry, model_id: str, adapter: Path) -> None:
    config = {"target_modules": [f"module-{number}-{'x' * 100}" for number in range(200)], "split": {"train": 0.8, "test": 0.2}}
    config |= {f"field_{number}": number for number in range(150)}
    run = begin(registry, model_id, config=config)
    registry.register(run, adapter, "tickets")
    model = registry.get(model_id)
    assert model is not None
    assert model.training_config == config
    assert client(registry).get_run(run).data.params["split.train"] == "0.8"


def test_a_model_renamed_in_mlflow_has_its_new_name(registry: Registry, model_id: str, adapter: Path) -> None:
    registry.register(begin(registry, model_id), adapter, "before")
    client(registry).rename_registered_model("before", "it's after")
    model = registry.get(model_id)
    assert model is not None
    assert model.model_name == "it's after"
    registry.delete(model_id)


def test_figures_come_back_with_their_intervals(registry: Registry, model_id: str, adapter: Path) -> None:
    registry.register(begin(registry, model_id), adapter, "tickets")
    bounds = {"accuracy": Interval(low=0.25, high=0.75, count=12), "base_f1": Interval(low=0.0, high=0.1, count=7)}
    registry.set_metrics(model_id, {"accuracy": 0.5, "base_f1": 0.05}, bounds)
    model = registry.get(model_id)
    assert model is not None
    assert (model.metrics, model.intervals) == ({"accuracy": 0.5, "base_f1": 0.05}, bounds)


def test_an_alias_is_one_version_s(registry: Registry, model_id: str, adapter: Path) -> None:
    name = f"o'clock {model_id}"
    assert registry.alias(name, "champion") is None
    for one in (f"{model_id}.a", f"{model_id}.b"):
        registry.register(begin(registry, one), adapter, name)
    assert registry.alias(name, "champion") is None
    for one in (f"{model_id}.a", f"{model_id}.b"):
        registry.set_alias(one, "champion")
        found = registry.alias(name, "champion")
        assert found is not None and found.model_id == one
    assert client(registry).get_model_version_by_alias(name, "champion").tags["llm_platform.model_id"] == f"{model_id}.b"
    registry.delete(f"{model_id}.b")
    assert registry.alias(name, "champion") is None
    with pytest.raises(NotFound):
        registry.set_alias("model_nothing", "champion")


def test_deleting_a_model(registry: Registry, model_id: str, adapter: Path) -> None:
    run, other = begin(registry, model_id), begin(registry, f"{model_id}.b")
    for each in (run, other):
        registry.register(each, adapter, "deleted")
    registry.delete(model_id)
    assert registry.get(model_id) is None
    assert client(registry).get_run(run).info.lifecycle_stage == "deleted"
    assert client(registry).list_artifacts(run) == []
    assert registry.get(f"{model_id}.b") is not None
    registry.delete(f"{model_id}.b")
    assert client(registry).search_registered_models("name = 'deleted'") == []
    # The same job can be submitted again.
    assert begin(registry, model_id) != run


@pytest.mark.parametrize("model_id", ["model_none", "x' OR 'a' = 'a", "../x", "a\nb", "", "`", "x" * 10_000, "%2e%2e"])
def test_what_is_not_there(registry: Registry, model_id: str) -> None:
    assert registry.get(model_id) is None
    for attempt in (
        lambda: registry.set_metrics(model_id, {"accuracy": 1.0}),
        lambda: registry.set_export(model_id, "merged", "s3://artifacts/x", ""),
        lambda: registry.delete(model_id),
    ):
        with pytest.raises(NotFound):
            attempt()


def test_an_unknown_run_and_a_hostile_id(registry: Registry, adapter: Path) -> None:
    with pytest.raises(NotFound):
        registry.register("0" * 32, adapter, "tickets")
    with pytest.raises(NotFound):
        registry.log_metrics("0" * 32, [MetricPoint("loss", 1.0, 0, 0)])
    with pytest.raises(InvalidConfig):
        begin(registry, "model_x' OR '1' = '1")


def test_many_models_come_page_by_page(registry: Registry, model_id: str, adapter: Path) -> None:
    names = {f"{model_id}.{number}" for number in range(5)}
    for name in names:
        registry.register(begin(registry, name, datasets=[], config={}), adapter, "paged")
    assert names <= {model.model_id for model in registry.all(page_size=2)}


def test_two_models_at_once(registry: Registry, model_id: str, adapter: Path) -> None:
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            run = begin(registry, name)
            registry.log_metrics(run, [MetricPoint("loss", 1.0, 0, 0)])
            registry.register(run, adapter, model_id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"{model_id}.{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({model.version for model in registry.all() if model.model_name == model_id}) == 4


def test_check(registry: Registry) -> None:
    registry.check()


def test_both_ways_find_what_the_other_wrote(served: Registry, mlflow_home: Path, adapter: Path, tmp_path: Path) -> None:
    direct = Registry(f"sqlite:///{mlflow_home / 'mlflow.db'}")
    served.register(begin(served, "model_by-server"), adapter, "tickets")
    direct.register(begin(direct, "model_direct"), adapter, "tickets")
    for registry in (served, direct):
        for name in ("model_by-server", "model_direct"):
            copy = registry.fetch_adapter(name, tmp_path / f"{registry is served}" / name)
            assert (copy / "adapter_config.json").read_text() == "{}"


@pytest.mark.timeout(120)
def test_curves_wait_for_a_server_that_is_down(tmp_path: Path, mlflow_url: str, mlflow_home: Path) -> None:
    shutil.copy(mlflow_home / "mlflow.db", tmp_path / "mlflow.db")
    run = begin(Registry(f"sqlite:///{tmp_path / 'mlflow.db'}"), "model_waiting")
    port = free_port()
    registry = Registry(f"http://127.0.0.1:{port}")
    with pytest.raises(ServiceUnavailable) as caught:
        registry.check()
    assert str(port) not in caught.value.message
    buffer = MetricBuffer(registry, run, seconds=0.01)
    buffer.add([MetricPoint("loss", 1.0, step, step) for step in range(10)])
    with mlflow_server(tmp_path, port):
        buffer.close()
        assert len(client(registry).get_metric_history(run, "train/loss")) == 10


@pytest.mark.timeout(60)  # MLflow's own timeouts, with its retries, take minutes
def test_a_silent_server_is_found_soon() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(ServiceUnavailable):
            Registry(f"http://127.0.0.1:{server.getsockname()[1]}").check()


def test_errors_do_not_say_where_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    registry = Registry(f"http://127.0.0.1:{port}")
    with pytest.raises(ServiceUnavailable) as caught:
        registry.get("model_x")
    assert str(port) not in str(caught.value.body())
    with pytest.raises(ServiceUnavailable), MetricBuffer(registry, "0" * 32) as buffer:
        buffer.add([MetricPoint("loss", 1.0, 0, 0)])


def test_importing_the_registry_imports_no_mlflow() -> None:
    code = "import sys, llm_platform.registry; assert not {'mlflow', 'huggingface_hub', 'jinja2', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_card_of_a_registered_model(registry: Registry, model_id: str, adapter: Path) -> None:
    registry.register(begin(registry, model_id), adapter, "tickets-tuned")
    model = registry.get(model_id)
    assert model is not None
    text = card(model)
    assert "\n# tickets-tuned\n" in text
    assert "This model was fine-tuned from `llm-platform/tiny-llama`" in text
