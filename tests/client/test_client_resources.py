"""Datasets, jobs and models of the SDK, over real HTTP."""

from __future__ import annotations

import inspect
import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from llm_platform import Client
from llm_platform.client import Job
from llm_platform.errors import Conflict, NotFound, StorageError, TrainingError
from tests.client.conftest import Seen, archive

CONFIG = {"nodes": [{"agent_name": "dataset", "agent_class": "DatasetAgent", "config": {"dataset_id": "ds_xyz789"}}], "edges": []}


def test_the_sdk_needs_no_more_than_httpx_and_pydantic() -> None:
    code = "import sys; from llm_platform import Client; print(sorted({'torch', 'sqlalchemy', 'pydantic_settings'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_upload_sends_the_file_and_tells_its_progress(client: Client, seen: Seen, tmp_path: Path) -> None:
    content = b"text,label\n" + b"x,y\n" * 100_000
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    told: list[tuple[int, int]] = []
    uploaded = client.datasets.upload(path, format="csv", on_progress=lambda sent, total: told.append((sent, total)))
    assert seen.uploads == [("rows.csv", "csv", content)]
    assert uploaded.size_bytes == len(content)
    assert uploaded.analysis.columns == ["text", "label"]
    assert told[-1] == (len(content), len(content))
    assert len(told) > 3, "it was read in pieces"


def test_datasets_are_typed_and_unknown_fields_are_passed_over(client: Client) -> None:
    assert client.datasets.get("ds_xyz789").rows == 10000
    assert len(client.datasets.preview("ds_xyz789", limit=3).samples) == 3
    page = client.datasets.list(limit=1, offset=7)
    assert [item.dataset_id for item in page] == ["ds_xyz789"]
    assert (page.total, page.limit, page.offset, page.has_more, len(page)) == (41, 1, 7, True, 1)


@pytest.mark.parametrize("body", [CONFIG, {"pipeline_config": CONFIG}])
def test_create_takes_a_config_with_or_without_its_outer_key_and_makes_a_run_id(
    client: Client, seen: Seen, body: dict[str, object]
) -> None:
    job = client.jobs.create(body)
    assert seen.posted == [{"pipeline_config": {**CONFIG, "run_id": job.run_id}}]
    assert (job.job_id, job.status, job.created_at.year) == (f"job_{job.run_id}", "pending", 2025)
    assert "run_id" not in CONFIG, "the caller's config is left as it was"


def test_create_keeps_a_run_id(client: Client) -> None:
    assert client.jobs.create({**CONFIG, "run_id": "abc123"}).job_id == "job_abc123"


def test_model_id_is_asked_for_until_it_is_known(client: Client, seen: Seen) -> None:
    job = client.jobs.create(CONFIG)
    assert job.model_id is None
    seen.jobs[job.job_id]["model_id"] = "model_abc123"
    assert job.model_id == "model_abc123"
    asked = len(seen.calls)
    assert job.model_id == "model_abc123"
    assert len(seen.calls) == asked


def test_a_job_without_a_model_has_none(client: Client, seen: Seen) -> None:
    job = client.jobs.create(CONFIG)
    seen.finish(job.job_id)
    assert job.model_id is None
    with pytest.raises(NotFound, match="no model"):
        client.models.get(job.model_id)


def test_wait_reports_every_look_and_returns_the_finished_job(client: Client, seen: Seen) -> None:
    job = client.jobs.create(CONFIG)
    looks: list[str] = []

    def look(job: Job) -> None:
        looks.append(job.status)
        assert job.progress.current_agent == "preprocessing"
        seen.finish(job.job_id)

    assert client.jobs.wait(job.job_id, on_update=look).status == "completed"
    assert looks == ["running", "completed"]


def test_each_node_of_a_job_is_seen(client: Client, seen: Seen) -> None:
    job = client.jobs.create(CONFIG)
    assert [(node.agent_name, node.status, node.attempts) for node in job.nodes] == [
        ("dataset", "completed", 2),
        ("preprocessing", "running", 1),
        ("training", "pending", 0),
    ]
    shown = job._repr_html_()
    for name, how in (("dataset", "completed after 1.5 s, attempt 2"), ("preprocessing", "running"), ("training", "pending")):
        assert f"<tr><th>node {name}</th><td>{how}</td></tr>" in shown


def test_wait_gives_up_in_time_and_leaves_the_job_alone(client: Client, seen: Seen) -> None:
    job = client.jobs.create(CONFIG)
    with pytest.raises(TimeoutError, match=r"still running after 0\.2 seconds"):
        client.jobs.wait(job, timeout=0.2)
    assert ("DELETE", f"/api/v1/jobs/{job.job_id}") not in seen.calls


def test_a_failed_job_says_why(client: Client, seen: Seen) -> None:
    job = client.jobs.create(CONFIG)
    error = {"error": "TRAINING_ERROR", "message": "Out of memory", "metadata": {"agent": "training"}}
    seen.finish(job.job_id, "failed", result={"error": error})
    failed = client.jobs.wait(job)
    assert failed.status == "failed"
    assert isinstance(failed.error, TrainingError)
    assert (failed.error.message, failed.error.metadata) == ("Out of memory", {"agent": "training"})


def test_jobs_are_listed_and_cancelled(client: Client, seen: Seen) -> None:
    job = client.jobs.create(CONFIG)
    assert [item.run_id for item in client.jobs.list()] == [job.run_id]
    assert client.jobs.cancel(job).status == "cancelled"
    assert client.jobs.get(job.job_id).status == "cancelled"
    seen.finish(job.job_id)
    with pytest.raises(Conflict, match="has completed"):
        client.jobs.cancel(job.job_id)


def test_models_are_listed_with_their_cards(client: Client) -> None:
    (summary,) = client.models.list(base_model="meta-llama/Llama-2-7b-hf")
    model = client.models.get(summary.model_id)
    assert model.metrics["accuracy"] == 0.92
    assert model.card() == "# llama2-finetuned\n"


def test_download_as_a_file_is_the_archive_itself(client: Client, seen: Seen, tmp_path: Path) -> None:
    path = client.models.download("model_abc123", format="merged", path=tmp_path / "new" / "model.zip")
    assert path.read_bytes() == seen.archive
    assert [p.name for p in path.parent.iterdir()] == ["model.zip"]


def test_download_into_a_folder_unpacks_and_replaces(client: Client, seen: Seen, tmp_path: Path) -> None:
    folder = tmp_path / "adapter-v1.0"
    seen.archive = archive({"adapter/adapter_config.json": "old", "adapter/README.md": "a"})
    assert client.models.download("model_abc123", path=folder) == folder
    seen.archive = archive({"adapter/adapter_config.json": "new"})
    client.models.download("model_abc123", path=folder)
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"adapter_config.json": "new", "README.md": "a"}


def test_a_file_that_is_no_archive_gets_only_the_last_part_of_its_name(client: Client, seen: Seen, tmp_path: Path) -> None:
    seen.archive, seen.archive_name = b"GGUF", "../../model.gguf"
    assert client.models.download("model_abc123", path=tmp_path) == tmp_path / "model.gguf"


@pytest.mark.parametrize("name", ["../evil", "/evil", "..\\evil", "a/../../evil", "C:evil"])
def test_an_archive_cannot_write_outside_its_folder(client: Client, seen: Seen, tmp_path: Path, name: str) -> None:
    seen.archive = archive({"fine": "x", name: "evil"})
    with pytest.raises(StorageError, match="outside its folder"):
        client.models.download("model_abc123", path=tmp_path / "adapter")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_a_tar_with_links_or_devices_is_refused(client: Client, seen: Seen, tmp_path: Path, kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as bundle:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        bundle.addfile(member)
    seen.archive = buffer.getvalue()
    with pytest.raises(StorageError, match="no file"):
        client.models.download("model_abc123", path=tmp_path / "adapter")


def test_a_format_that_was_not_exported_is_not_found_and_leaves_nothing(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="gguf"):
        client.models.download("model_abc123", format="gguf", path=tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_the_documentation_names_every_call_with_its_arguments(client: Client) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8").partition("## The Python SDK")[2]
    rows = dict(re.findall(r"^\| `client\.(\w+)[^`]*` \| (.*) \|$", text, re.MULTILINE))
    resources = {name for name in vars(client) if not name.startswith("_")}
    assert rows.keys() == resources | {"preflight", "usage", "health"}
    for name in resources:
        shown = {call: set(re.findall(r"\w+", given)) for call, given in re.findall(r"`(\w+)\((.*?)\)`", rows[name])}
        methods = {call: method for call, method in inspect.getmembers(getattr(client, name), callable) if not call.startswith("_")}
        assert shown.keys() == methods.keys(), name
        for call, method in methods.items():
            optional = {key for key, value in inspect.signature(method).parameters.items() if value.default is not inspect.Parameter.empty}
            assert optional <= shown[call], f"client.{name}.{call}"
