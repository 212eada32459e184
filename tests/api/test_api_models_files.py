"""A model's card in two forms, and its files: listed, presigned in a real S3, streamed in bounded memory."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llm_platform import Client
from llm_platform.specs.gate import GateResult
from tests.api.api_harness import Api, Start
from tests.servers import rclone_s3

# MLflow's own, about the libraries that it uses.
pytestmark = pytest.mark.filterwarnings("ignore")

FILES = {"adapter_config.json": b"{}", "deep/weights.safetensors": bytes(range(256)) * 500}
REJECTED = GateResult(
    runtime="transformers",
    accepted=False,
    reasons=["agreement is 10%"],
    split="test",
    rows=10,
    agreement=0.1,
    required_agreement=0.99,
    same_end=1.0,
    logit_difference=0.0,
    allowed_logit_difference=0.1,
    same_tokens=None,
    same_template=None,
    seconds=1.0,
)


@pytest.fixture(scope="module")
def trained(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API over a real S3; `model_x` has an adapter, and a merged export that the gate rejected."""
    with (
        rclone_s3(tmp_path_factory.mktemp("s3")) as s3,
        start(s3_endpoint=s3.endpoint, s3_access_key=s3.access_key, s3_secret_key=s3.secret_key) as api,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        register(api, tmp_path_factory.mktemp("adapter"))
        yield api


def register(api: Api, folder: Path) -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    registry = api.services.registry
    begun = registry.begin("model_x", "x", "train", "<script>alert(1)", "org/base", {"method": "lora"}, {}, [])
    registry.register(begun, folder, "<script>alert(1)")
    stored = api.services.storage.put_folder(folder, "s3://artifacts/x/adapter")
    registry.set_export("model_x", "adapter", stored.address, stored.sha256)
    registry.set_export("model_x", "merged", stored.address, stored.sha256, {"merged": REJECTED})


def test_files_have_presigned_addresses_that_anyone_can_read(trained: Api) -> None:
    answer = trained.client.get("/models/model_x/files")
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert (found["model_id"], found["format"], found["address"]) == ("model_x", "adapter", "s3://artifacts/x/adapter")
    assert found["expires_at"].endswith("Z")
    assert {item["path"]: item["size_bytes"] for item in found["files"]} == {name: len(data) for name, data in FILES.items()}
    for item in found["files"]:
        data = httpx.get(item["url"], trust_env=False).content
        assert data == FILES[item["path"]] and hashlib.sha256(data).hexdigest() == item["sha256"]
        assert httpx.get(item["url"].split("?")[0], trust_env=False).is_client_error, "not without the signature"
    with Client(trained.url) as client:
        assert [item.path for item in client.models.files("model_x").files] == list(FILES)


def test_what_may_not_be_downloaded_is_not_presigned(trained: Api) -> None:
    for path in ("/models/model_x/files", "/models/model_x/download"):
        answer = trained.client.get(path, params={"format": "merged"})
        assert (answer.status_code, answer.json()["error"]) == (409, "CONFLICT") and "agreement is 10%" in answer.json()["message"]
        assert trained.client.get(path, params={"format": "gguf"}).status_code == 404
        assert trained.client.get(path, params={"format": "zip"}).status_code == 400


def test_a_local_store_has_no_such_addresses(start: Start, tmp_path: Path) -> None:
    with start() as api:
        register(api, tmp_path)
        found = api.client.get("/models/model_x/files").json()
    assert found["expires_at"] is None and {item["url"] for item in found["files"]} == {None}
    assert {item["sha256"] for item in found["files"]} == {hashlib.sha256(data).hexdigest() for data in FILES.values()}


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (None, False),
        ("*/*", False),
        ("text/markdown", False),
        ("text/*", False),
        ("application/json", False),
        ("text/html", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/markdown, text/html;q=0.5", False),
        ("text/markdown;q=0.1, TEXT/HTML ; q=0.5", True),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        (";,,;;q", False),
    ],
)
def test_a_card_comes_as_it_is_wanted(trained: Api, accept: str | None, html: bool) -> None:
    answer = trained.client.get("/models/model_x/card", headers={"Accept": accept} if accept else {})
    assert answer.status_code == 200 and "Accept" in answer.headers["vary"].split(", ")
    assert answer.headers["content-type"] == f"text/{'html' if html else 'markdown'}; charset=utf-8"
    assert answer.text.startswith("<!doctype html>" if html else "---\n")


def test_the_page_can_run_nothing(trained: Api) -> None:
    page = trained.client.get("/models/model_x/card", headers={"Accept": "text/html"})
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy and "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<script" not in page.text and "&lt;script&gt;alert(1)" in page.text
