"""`AsyncClient` against the platform's own API, with everything real but Dagster; and against the small server where it must fail."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_platform import AsyncClient, Client, keys, runlog
from llm_platform.errors import (
    Conflict,
    InvalidConfig,
    InvalidInput,
    NotFound,
    PlatformError,
    RateLimited,
    ServiceUnavailable,
    StorageError,
)
from llm_platform.specs.keys import KeyRequest
from tests.api.api_harness import CSV, Api, Start
from tests.client.conftest import Seen, archive

# MLflow's own, about the libraries that it uses.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with Start(tmp_path_factory.mktemp("sdk-async"))() as found:
        yield found


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "training_data.csv"
    path.write_bytes(CSV)
    return path


def pipeline(dataset_id: str, **more: Any) -> dict[str, Any]:
    node = {"agent_name": "dataset", "agent_class": "DatasetAgent", "config": {"dataset_id": dataset_id}}
    return {"nodes": [node], "edges": [], **more}


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_both_clients_have_the_same_resources_methods_and_arguments() -> None:
    def arguments(method: Any) -> list[tuple[str, Any]]:
        return [(name, parameter.default) for name, parameter in inspect.signature(method).parameters.items()]

    def methods(thing: object) -> dict[str, list[tuple[str, Any]]]:
        return {name: arguments(value) for name, value in inspect.getmembers(thing, callable) if not name.startswith("_")}

    client, other = Client(), AsyncClient()
    names = ["datasets", "jobs", "logs", "models", "notebooks", "keys", "audit"]
    assert {name for name in vars(client) if not name.startswith("_")} == {*names} == {n for n in vars(other) if not n.startswith("_")}
    assert methods(client) == methods(other)
    for name in names:
        assert methods(getattr(client, name)) == methods(getattr(other, name)), name
    client.close()
    asyncio.run(other.close())


def test_it_needs_no_more_than_httpx_and_pydantic() -> None:
    heavy = "{'torch', 'sqlalchemy', 'pydantic_settings', 'numpy', 'polars'}"
    code = f"import sys; from llm_platform import AsyncClient; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_datasets_and_health(api: Api, csv: Path) -> None:
    async def work() -> None:
        async with AsyncClient(api.url) as client:
            assert (await client.health()).services["api"] == "healthy"
            told: list[tuple[int, int]] = []
            uploaded = await client.datasets.upload(csv, on_progress=lambda sent, total: told.append((sent, total)))
            assert (uploaded.size_bytes, uploaded.analysis.rows, told[-1]) == (len(CSV), 30, (len(CSV), len(CSV)))
            assert (await client.datasets.get(uploaded.dataset_id)).format == "csv"
            assert (await client.datasets.preview(uploaded.dataset_id, limit=2)).samples[1]["answer"] == 2
            assert (await client.datasets.profile(uploaded.dataset_id)).layout.name == "question_answer"
            with pytest.raises(NotFound):
                await client.datasets.get("ds_nothing")
            with Client(api.url) as other:
                assert (await client.usage()).dataset_bytes.used == other.usage().dataset_bytes.used >= len(CSV)

    run(work())


def test_a_job_from_submission_to_its_end(api: Api, csv: Path) -> None:
    async def work() -> None:
        async with AsyncClient(api.url) as client:
            dataset = await client.datasets.upload(csv)
            job = await client.jobs.create(pipeline(dataset.dataset_id))
            assert (job.status, job.model_id, job.progress) == ("pending", None, None)
            again = await client.jobs.create(pipeline(dataset.dataset_id, run_id=job.run_id))
            assert again.job_id == job.job_id
            lines = [runlog.line("INFO", f"line {number}", agent="DatasetAgent") for number in range(5)]
            lines.append(runlog.line("METRIC", "step 1", agent="TrainingAgent", step=1, epoch=0.5, loss=1.5))
            await asyncio.to_thread(runlog.append, api.services.database, job.run_id, lines)

            async def follow(**filters: Any) -> list[str]:
                return [line.message async for line in client.logs.stream(job.run_id, **filters)]

            everything, figures = asyncio.create_task(follow()), asyncio.create_task(follow(level=["METRIC"], agent=["TrainingAgent"]))
            await asyncio.to_thread(api.orchestrator.move, job.run_id, "running")
            await asyncio.to_thread(api.orchestrator.move, job.run_id, "completed")
            looks: list[str] = []
            finished = await client.jobs.wait(job, timeout=30, on_update=lambda look: looks.append(look.status))
            assert (finished.status, looks[-1], finished.error) == ("completed", "completed", None)
            assert [message for message in await everything if message.startswith(("line", "step"))] == [
                *(f"line {number}" for number in range(5)),
                "step 1",
            ]
            assert await figures == ["step 1"]
            assert (await client.logs.history(job.run_id, level=["METRIC"])).total == 1
            with pytest.raises(Conflict):
                await client.jobs.cancel(job)
            with pytest.raises(NotFound, match="no model"):
                await client.models.get((await job.refresh()).model_id)

    run(work())


def test_lists_are_awaited_for_a_page_and_iterated_for_everything(api: Api, csv: Path) -> None:
    async def work() -> None:
        async with AsyncClient(api.url) as client:
            dataset = await client.datasets.upload(csv)
            made = [(await client.jobs.create(pipeline(dataset.dataset_id))).job_id for _ in range(5)]
            page = await client.jobs.list(limit=2)
            assert [job.job_id for job in page] == made[:-3:-1] and page.has_more
            assert [job.job_id async for job in client.jobs.list(limit=2)][:5] == made[::-1]
            assert [len(page) async for page in client.jobs.list(limit=2, offset=page.total - 3).pages()] == [2, 1]
            with Client(api.url) as other:
                assert [job.job_id for job in other.jobs.list(limit=2).all()][:5] == made[::-1]
                assert [len(page) for page in other.jobs.list(limit=2, offset=page.total - 3).pages()] == [2, 1]
                assert dataset.dataset_id in [item.dataset_id for item in other.datasets.list(limit=1).all()]
            cancelled = await client.jobs.cancel(made[0], keep=True)
            assert (cancelled.status, cancelled.keeps) == ("cancelled", [])
            assert (await client.jobs.wait(made[0], timeout=30)).done
            assert (await client.jobs.delete_artifacts(made[0])).deleted == []

    run(work())


def test_mistakes_come_back_as_exceptions_with_all_that_was_found(api: Api) -> None:
    async def work() -> None:
        async with AsyncClient(api.url) as client:
            with pytest.raises(InvalidInput) as caught:
                await client.jobs.create({"nodes": [{"agent_name": "dataset", "agent_class": "DatasetAgent", "config": {}}], "edges": []})
            assert caught.value.metadata["errors"] == [{"field": "file_path", "agent": "dataset", "message": "field required"}]
            with pytest.raises(InvalidConfig, match="no nodes"):
                await client.jobs.create({"nodes": [], "edges": []})
            assert [item.name async for item in client.notebooks.list()] != []
            assert (await client.models.list()).items == []
            with pytest.raises(NotFound):
                await client.models.card("model_nothing")

    run(work())


def test_keys_and_the_audit_log(tmp_path: Path) -> None:
    async def work(url: str, key: str) -> None:
        async with AsyncClient(url, api_key=key) as admin:
            made = await admin.keys.create("alice", "read", expires_in_days=7)
            assert made.key.startswith("llmp_") and made.scope == "read"
            assert (await admin.keys.list()).items[0].key_id == made.key_id
            assert (await admin.keys.revoke(made.key_id)).revoked_at is not None
            with Client(url, api_key=key) as other:
                assert [entry.action for entry in other.audit.list(limit=1).all()] == ["key.revoke", "key.create"]
                assert other.audit.list(action="key.create").items[0].target == made.key_id
                again = other.keys.create("bob")
                assert other.keys.list().items[0].key_id == again.key_id
                assert other.keys.revoke(again.key_id).revoked_at is not None

    with Start(tmp_path)(authentication=True) as api:
        admin = keys.create(KeyRequest(owner="root", scope="admin"), api.services.database)
        run(work(api.url, admin.key))


def test_what_fails_is_tried_again_as_often_as_it_may(base_url: str, seen: Seen, csv: Path) -> None:
    async def work() -> None:
        seen.busy = [(503, {}), (429, {"Retry-After": "0"}), (500, {})]
        async with AsyncClient(base_url) as client:
            assert (await client.datasets.get("ds_xyz789")).rows == 10000
            seen.calls.clear()
            seen.busy = [(500, {"X-Request-Id": "r1"})]
            with pytest.raises(PlatformError, match="answered with 500") as caught:
                await client.jobs.retry("job_abc123")
            assert len(seen.calls) == 1 and caught.value.request_id == "r1"
            seen.busy = [(500, {})]
            assert (await client.datasets.upload(csv)).size_bytes == len(CSV)
            assert len(set(seen.idempotency_keys)) == 1 and len(seen.idempotency_keys) == 2
            seen.lines, seen.break_after = [f"line {number}" for number in range(20)], [0, 3, 11]
            assert [line.message async for line in client.logs.stream("abc123")] == seen.lines
        seen.busy = [(429, {"Retry-After": "0"})] * 2
        async with AsyncClient(base_url, max_retries=1) as client:
            with pytest.raises(RateLimited, match="429"):
                await client.datasets.get("ds_xyz789")
        async with AsyncClient("http://127.0.0.1:1/api/v1", max_retries=0) as client:
            with pytest.raises(ServiceUnavailable, match="is it running"):
                await client.health()

    run(work())


def test_downloads_unpack_and_leave_nothing_when_they_fail(base_url: str, seen: Seen, tmp_path: Path) -> None:
    async def work() -> None:
        async with AsyncClient(base_url) as client:
            model = await client.models.get("model_abc123")
            assert await model.card() == "# llama2-finetuned\n"
            assert await model.download(path=tmp_path / "adapter") == tmp_path / "adapter"
            assert (tmp_path / "adapter" / "adapter_config.json").exists()
            with pytest.raises(NotFound):
                await model.download(format="gguf", path=tmp_path / "model.gguf")
            seen.archive = archive({"../evil": "x"})
            with pytest.raises(StorageError, match="outside its folder"):
                await model.download(path=tmp_path / "evil")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "evil"]
        assert list((tmp_path / "evil").iterdir()) == []

    run(work())
