"""Models over HTTP: from a real MLflow, in a SQLite file, to the bytes of an archive."""

from __future__ import annotations

import io
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_platform import models
from llm_platform.model_list import list_models, parse_query
from llm_platform.registry import DatasetInput
from tests.api.api_harness import Api, Start

# MLflow's own, about the libraries that it uses.
pytestmark = pytest.mark.filterwarnings("ignore")

FILES = {
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": bytes(range(256)) * 5_000,
    "empty.txt": b"",
    "sub/" + "n" * 120: b"deep",
}
CONFIG = {"method": "lora", "lora_r": 16, "lora_alpha": 32, "epochs": 3, "batch_size": 4, "learning_rate": 2e-4}


@pytest.fixture(scope="module")
def trained(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API whose registry has three models; `model_abc123` has an adapter that is stored."""
    folder = tmp_path_factory.mktemp("adapter")
    for name, data in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    with start() as api, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, model_id in enumerate(("model_abc123", "model_two.a", "model_two.b")):
            register(api, model_id, folder, "meta-llama/Llama-2-7b-hf" if number < 2 else "llm-platform/tiny-llama")
        stored = api.services.storage.put_folder(folder, "s3://artifacts/abc123/adapter")
        api.services.registry.set_export("model_abc123", "adapter", stored.address, stored.sha256)
        assert models.reindex(api.services.registry, api.services.database) == 3
        yield api


def register(api: Api, model_id: str, folder: Path, base: str) -> None:
    run_id, _, node = model_id.removeprefix("model_").partition(".")
    data = DatasetInput(
        name="training_data.csv", digest="d" * 64, source_address="s3://datasets/ds_xyz789/training_data.csv", dataset_id="ds_xyz789"
    )
    begun = api.services.registry.begin(model_id, run_id, node or "train", "llama2-finetuned", base, CONFIG, {}, [data])
    api.services.registry.register(begun, folder, "llama2-finetuned")
    api.services.registry.set_metrics(model_id, {"accuracy": 0.92, "f1": 0.89, "final_loss": 0.42})


def test_list(trained: Api) -> None:
    found = trained.client.get("/models").json()
    assert (found["total"], found["limit"], found["offset"], found["has_more"]) == (3, 20, 0, False)
    (model,) = (item for item in found["models"] if item["model_id"] == "model_abc123")
    assert model.pop("created_at").endswith("Z")
    assert model == {
        "model_id": "model_abc123",
        "run_id": "abc123",
        "model_name": "llama2-finetuned",
        "base_model": "meta-llama/Llama-2-7b-hf",
        "metrics": {"accuracy": 0.92, "f1": 0.89, "final_loss": 0.42},
        "exports": ["adapter"],
        "aliases": [],
    }
    page = trained.client.get("/models", params={"limit": 1, "offset": 1}).json()
    assert len(page["models"]) == 1 and page["has_more"]
    only = trained.client.get("/models", params={"base_model": "llm-platform/tiny-llama"}).json()
    assert [item["model_id"] for item in only["models"]] == ["model_two.b"] and only["total"] == 1


def test_details(trained: Api) -> None:
    model = trained.client.get("/models/model_abc123").json()
    assert model.pop("created_at").endswith("Z")
    assert model == {
        "model_id": "model_abc123",
        "run_id": "abc123",
        "model_name": "llama2-finetuned",
        "base_model": "meta-llama/Llama-2-7b-hf",
        "dataset_id": "ds_xyz789",
        "training_config": CONFIG,
        "metrics": {"accuracy": 0.92, "f1": 0.89, "final_loss": 0.42},
        "exports": {"adapter": "s3://artifacts/abc123/adapter"},
        "aliases": [],
        "gates": {},
    }
    assert trained.client.get("/models/model_two.a").json()["run_id"] == "two"


def test_the_card(trained: Api) -> None:
    answer = trained.client.get("/models/model_abc123/card")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "llama2-finetuned" in answer.text and "meta-llama/Llama-2-7b-hf" in answer.text


def test_download(trained: Api) -> None:
    answer = trained.client.get("/models/model_abc123/download", params={"format": "adapter"})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["content-disposition"] == 'attachment; filename="model_abc123-adapter.tar"'
    assert int(answer.headers["content-length"]) == len(answer.content) and answer.headers["accept-ranges"] == "bytes"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        found = {entry.name: (tar.extractfile(entry) or io.BytesIO()).read() for entry in tar}
    assert found == {f"model_abc123-adapter/{name}": data for name, data in FILES.items()}
    assert trained.client.get("/models/model_abc123/download").content == answer.content
    etag = answer.headers["etag"]
    for tags in (etag, f"W/{etag}", f'"old", W/"older" ,{etag}', "*"):
        unchanged = trained.client.get("/models/model_abc123/download", headers={"If-None-Match": tags})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag), tags
    for tags in ('"old"', 'W/"old"', etag.strip('"'), ""):
        assert trained.client.get("/models/model_abc123/download", headers={"If-None-Match": tags}).status_code == 200, tags
    assert trained.client.get("/models/model_abc123/download", headers={"Range": "bytes=0-9", "If-Range": f"W/{etag}"}).status_code == 200


@pytest.mark.parametrize(
    "ask", ["bytes=0-0", "bytes=100-2000", "bytes=1279000-1281500", "bytes=5-", "bytes=-700", "bytes=0-99999999999", "BYTES = 1-2"]
)
def test_a_part(trained: Api, ask: str) -> None:
    path = "/models/model_abc123/download"
    whole = trained.client.get(path)
    start, end = models.parse_range(ask, len(whole.content)) or (0, 0)
    part = trained.client.get(path, headers={"Range": ask, "If-Range": whole.headers["etag"]})
    assert part.status_code == 206 and part.content == whole.content[start:end] and part.content
    assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(whole.content)}"
    assert int(part.headers["content-length"]) == len(part.content)
    assert trained.client.get(path, headers={"Range": ask, "If-Range": '"old"'}).status_code == 200


@pytest.mark.parametrize(
    "ask",
    [
        "bytes=99999999-",
        "bytes=5-1",
        "bytes=-0",
        "bytes=-",
        "bytes=a-b",
        "bytes=0-1,5-6",
        "bytes=" + "0-1," * 1_000 + "0-1",
        "lines=0-1",
        "bytes=" + "9" * 100 + "-",
    ],
)
def test_a_part_that_is_none(trained: Api, ask: str) -> None:
    answer = trained.client.get("/models/model_abc123/download", headers={"Range": ask})
    assert (answer.status_code, answer.json()["error"]) == (416, "VALIDATION_ERROR")
    assert answer.headers["content-range"].startswith("bytes */")


def test_what_is_not_there(trained: Api) -> None:
    answer = trained.client.get("/models/model_abc123/download", params={"format": "gguf"})
    assert (answer.status_code, answer.json()["error"]) == (404, "NOT_FOUND") and "adapter" in answer.json()["message"]
    assert trained.client.get("/models/model_two.a/download").status_code == 404
    answer = trained.client.get("/models/model_abc123/download", params={"format": "zip"})
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR")
    assert answer.json()["metadata"]["errors"][0]["field"] == "format"
    for path in ("/models/model_none", "/models/model_none/card", "/models/model_none/download"):
        answer = trained.client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (404, "NOT_FOUND")


def test_reindexing_is_the_truth_of_the_registry(trained: Api) -> None:
    database = trained.services.database
    row = database.model("model_abc123") or {}
    database.put_model(**{**row, "model_id": "model_stale"})
    assert models.reindex(trained.services.registry, database) == 3
    assert database.model("model_stale") is None and list_models(parse_query(), database, 10, 0, None)[1] == 3
