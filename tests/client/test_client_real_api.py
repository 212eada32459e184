"""The SDK against the platform's own API, with everything real but Dagster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_platform import Client, models, runlog
from llm_platform.errors import Conflict, DatasetError, InvalidConfig, InvalidInput, NotFound
from llm_platform.registry import DatasetInput
from llm_platform.specs.results import NodeResult
from tests.api.api_harness import CSV, Api, Start, wait_until

# MLflow's own, about the libraries that it uses.
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = Path(__file__).with_name("example.txt")
"""The Python example of the API's specification, to the letter."""
SPECIFICATION = ROOT.parent / "shared" / "spec" / "api-specification.md"
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256))}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with Start(tmp_path_factory.mktemp("sdk"))() as found:
        yield found


@pytest.fixture(scope="module")
def client(api: Api) -> Iterator[Client]:
    with Client(api.url) as found:
        yield found


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "training_data.csv"
    path.write_bytes(CSV)
    return path


def pipeline(dataset_id: str, **more: Any) -> dict[str, Any]:
    node = {"agent_name": "dataset", "agent_class": "DatasetAgent", "config": {"dataset_id": dataset_id}}
    return {"nodes": [node], "edges": [], **more}


def test_health(client: Client) -> None:
    assert client.health().services["api"] == "healthy"


def test_datasets(client: Client, csv: Path) -> None:
    uploaded = client.datasets.upload(csv)
    assert (uploaded.filename, uploaded.size_bytes, uploaded.analysis.rows) == ("training_data.csv", len(CSV), 30)
    assert client.datasets.get(uploaded.dataset_id).format == "csv"
    profile = client.datasets.profile(uploaded.dataset_id)
    assert profile.analysis == uploaded.analysis and profile.layout.name == "question_answer"
    assert client.datasets.preview(uploaded.dataset_id, limit=2).samples[1] == {"question": "What is 1 plus 1?", "answer": 2}
    assert uploaded.dataset_id in [item.dataset_id for item in client.datasets.list(limit=100)]
    with pytest.raises(DatasetError, match="csv"):
        client.datasets.upload(csv, format="parquet")
    with pytest.raises(NotFound):
        client.datasets.get("ds_nothing")


def test_a_job_from_submission_to_its_end(client: Client, api: Api, csv: Path) -> None:
    dataset = client.datasets.upload(csv)
    job = client.jobs.create(pipeline(dataset.dataset_id))
    again = client.jobs.create(pipeline(dataset.dataset_id, run_id=job.run_id))
    assert (again.job_id, again.created_at) == (job.job_id, job.created_at)
    with pytest.raises(Conflict, match="taken by another pipeline"):
        client.jobs.create(pipeline(dataset.dataset_id, run_id=job.run_id, global_config={"max_retries": 7}))

    api.orchestrator.move(job.run_id, "running")
    database = api.services.database
    runlog.append(database, job.run_id, [runlog.line("INFO", f"line {number}", agent="DatasetAgent") for number in range(5)])
    seen: list[str] = []

    def follow() -> None:
        seen.extend(line.message for line in client.logs.stream(job.run_id) if line.level == "METRIC" or line.message.startswith("line"))

    reader = threading.Thread(target=follow)
    reader.start()
    runlog.append(database, job.run_id, [runlog.line("METRIC", "step 1", agent="TrainingAgent", step=1, epoch=0.5, loss=1.5)])
    looks: list[str] = []
    api.orchestrator.move(job.run_id, "completed")
    finished = client.jobs.wait(job, timeout=30, on_update=lambda look: looks.append(look.status))
    reader.join(30)
    assert (finished.status, looks[-1], finished.error) == ("completed", "completed", None)
    assert seen == [*(f"line {number}" for number in range(5)), "step 1"]

    page = client.logs.history(job.run_id, limit=4)
    rest = client.logs.history(job.run_id, after=page.next_cursor)
    assert len(page.logs) + len(rest.logs) == page.total
    assert job.run_id in [item.run_id for item in client.jobs.list(status="completed", created_after=job.created_at)]
    assert job.run_id not in [item.run_id for item in client.jobs.list(created_before=job.created_at)]
    with pytest.raises(Conflict):
        client.jobs.cancel(job)


def test_a_job_is_cancelled(client: Client, csv: Path) -> None:
    job = client.jobs.create(pipeline(client.datasets.upload(csv).dataset_id))
    assert client.jobs.cancel(job).status == "cancelled"
    assert client.jobs.wait(job, timeout=30).status == "cancelled"
    with pytest.raises(NotFound, match="no model"):
        client.models.get(job.model_id)
    other = client.jobs.create(pipeline(client.datasets.upload(csv).dataset_id))
    assert client.jobs.cancel(other, keep=True).keeps == [], "no training runs"


def test_mistakes_come_back_as_exceptions_with_all_that_was_found(client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.jobs.create({"nodes": [{"agent_name": "dataset", "agent_class": "DatasetAgent", "config": {}}], "edges": []})
    assert caught.value.metadata["errors"] == [{"field": "file_path", "agent": "dataset", "message": "field required"}]
    with pytest.raises(InvalidConfig, match="no nodes"):
        client.jobs.create({"nodes": [], "edges": []})
    with pytest.raises(InvalidInput):
        client.jobs.create({"pipeline_config": None})
    report = {"agent_name": "report", "agent_class": "NotebookAgent", "config": {"notebook": "evaluate_model", "parameters": {"nope": 1}}}
    with pytest.raises(InvalidConfig, match="no parameter 'nope'"):
        client.jobs.create({"nodes": [report], "edges": []})


def test_models(client: Client) -> None:
    assert client.models.list().items == []
    with pytest.raises(NotFound):
        client.models.get("model_nothing")


def test_the_example_of_the_specification_to_the_letter(tmp_path: Path) -> None:
    example = EXAMPLE.read_text(encoding="utf-8")
    if SPECIFICATION.exists():
        assert f"```python\n{example}```\n" in SPECIFICATION.read_text(encoding="utf-8")
    (tmp_path / "training_data.csv").write_bytes(CSV)
    with Start(tmp_path / "platform")() as api:
        program = tmp_path / "example.py"
        program.write_text(filled(example, api.url), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        running = subprocess.Popen([sys.executable, program], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: api.orchestrator.by_run_id or running.poll() is not None, 60)
            (run_id,) = api.orchestrator.by_run_id
            train(api, run_id, tmp_path / "adapter_of_the_platform")
            said, _ = running.communicate(timeout=60)
        finally:
            running.kill()
            running.wait()
        (dataset,), _ = api.services.database.list_datasets(10, 0)
    assert running.returncode == 0
    assert said.splitlines()[0] == f"Dataset ID: {dataset['dataset_id']}"
    assert "[METRIC] step 1" in said.splitlines()
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()} == FILES


def filled(example: str, url: str) -> str:
    """The example with what it leaves open: where the platform is, and the pipeline."""
    template_mapping = {"instruction": "question", "output": "answer"}
    config: dict[str, dict[str, Any]] = {
        "Dataset": {"dataset_id": "the uploaded one"},
        "Preprocessing": {"base_model": "llm-platform/tiny-llama", "template_mapping": template_mapping},
        "Training": {"max_steps": 1},
    }
    nodes = [{"agent_name": name, "agent_class": f"{name}Agent", "config": given} for name, given in config.items()]
    edges = [{"from_agent": first, "to_agent": second} for first, second in zip([*config], [*config][1:], strict=False)]
    for old, new in (
        ("http://localhost:8000/api/v1", url),
        ('"nodes": [...]', f'"nodes": {json.dumps(nodes)}'.replace('"the uploaded one"', "dataset.dataset_id")),
        ('"edges": [...]', f'"edges": {json.dumps(edges)}'),
    ):
        assert example.count(old) == 1
        example = example.replace(old, new)
    return example


def train(api: Api, run_id: str, folder: Path) -> None:
    """Does what the run's training node would do, from its first log line to the model, and ends the run."""
    services, model_id, address = api.services, f"model_{run_id}", f"s3://artifacts/{run_id}/adapter"
    api.orchestrator.move(run_id, "running")
    services.database.start_node(run_id, "Training", "TrainingAgent", "digest")
    runlog.append(services.database, run_id, [runlog.line("METRIC", "step 1", agent="TrainingAgent", step=1, epoch=0.5, loss=1.5)])
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    data = DatasetInput(name="training_data.csv", digest="d" * 64, source_address="s3://datasets/x/training_data.csv")
    begun = services.registry.begin(model_id, run_id, "Training", "tuned", "llm-platform/tiny-llama", {}, {}, [data])
    services.registry.register(begun, folder, "tuned")
    stored = services.storage.put_folder(folder, address)
    services.registry.set_export(model_id, "adapter", stored.address, stored.sha256)
    services.database.put_model(**models.projection(models.registered(model_id, services.registry)))
    result = NodeResult(artifacts={"adapter": address}, model_ids=[model_id])
    services.database.end_node(run_id, "Training", "completed", result=result.model_dump(mode="json"))
    api.orchestrator.move(run_id, "completed")
