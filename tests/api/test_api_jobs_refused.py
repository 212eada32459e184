"""Pipelines that are refused: what a client is told, and that nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_platform.evaluation import benchmarks
from tests.api.api_harness import Api, Start, body


def refused(api: Api, answer: Any, status: int, code: str, *words: str) -> dict[str, Any]:
    """Asserts the specification's error body, and that it holds these words."""
    found = answer.json()
    assert (answer.status_code, found["error"]) == (status, code), answer.text
    assert set(found) == {"error", "message", "metadata"} and found["message"]
    for word in words:
        assert word in answer.text
    assert str(api.services.settings.root) not in answer.text and "Traceback" not in answer.text
    return found


@pytest.mark.parametrize(
    "path",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "http://169.254.169.254/",
        "http://2852039166/",
        "http://[::ffff:169.254.169.254]/",
        "s3://other-bucket/x",
        "s3://datasets/../../x",
        "s3://datasets/%2e%2e/x",
        "s3://datasets/a\nb",
        "s3://datasets/",
    ],
)
def test_a_path_that_is_not_allowed(shared: Api, path: str) -> None:
    before = shared.counts()
    answer = shared.submit("bad", dataset={"file_path": path})
    found = refused(shared, answer, 400, "CONFIG_ERROR", "file_path")
    assert found["metadata"]["errors"][0]["agent"] == "dataset"
    assert shared.counts() == before


def test_a_symbolic_link_out_of_the_root(shared: Api) -> None:
    link = shared.services.settings.root / "objects" / "datasets" / "link.csv"
    link.symlink_to("/etc/passwd")
    refused(shared, shared.submit("bad", dataset={"file_path": "s3://datasets/link.csv"}), 400, "CONFIG_ERROR", "symbolic link")
    link.unlink()


def test_what_is_not_there(shared: Api) -> None:
    refused(shared, shared.submit("bad", dataset={"file_path": "s3://datasets/nothing.csv"}), 400, "DATASET_ERROR", "nothing.csv")
    answer = shared.client.post("/jobs", json=body("bad", dataset={"file_path": "s3://datasets/nothing.csv"}))
    refused(shared, answer, 400, "DATASET_ERROR", "nothing.csv")
    named = body("bad")
    named["pipeline_config"]["nodes"][0]["config"] = {"dataset_id": "ds_nothing"}
    refused(shared, shared.client.post("/jobs", json=named), 400, "CONFIG_ERROR", "ds_nothing")
    notebook = body("bad")
    notebook["pipeline_config"]["nodes"].append(
        {"agent_name": "n", "agent_class": "NotebookAgent", "config": {"notebook": "no_such_notebook"}}
    )
    refused(shared, shared.client.post("/jobs", json=notebook), 400, "CONFIG_ERROR", "no_such_notebook")


@pytest.mark.parametrize("name", ["../models/evil", "/etc", "https://example.com/model", "a/b/c", "pickle"])
def test_a_base_model_that_is_not_allowed(shared: Api, name: str) -> None:
    found = refused(shared, shared.submit("bad", preprocessing={"base_model": name}), 400, "CONFIG_ERROR")
    assert found["metadata"]["errors"][0] == {"field": "base_model", "agent": "preprocessing", "message": found["message"]}


def test_a_base_model_whose_weights_are_pickles(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with start(model_roots=[tmp_path]) as api:
        api.put()
        before = api.counts()
        found = refused(
            api, api.submit("bad", preprocessing={"base_model": str(folder)}), 400, "CONFIG_ERROR", "convert them to safetensors"
        )
        assert found["metadata"]["errors"][0]["field"] == "base_model" and api.counts() == before


@pytest.mark.parametrize(
    "source",
    [
        "{{ ().__class__ }}{{ instruction }}",
        "{% for i in range(9999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{{ instruction }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}{{ instruction }}",
        "{% for message in messages %}",
    ],
    ids=["attributes", "a loop without end", "recursion without end", "no template"],
)
@pytest.mark.timeout(60)
def test_a_custom_template_that_is_refused(shared: Api, source: str) -> None:
    before = shared.counts()
    answer = shared.submit("bad", preprocessing={"template": "custom", "template_source": source})
    found = refused(shared, answer, 400, "CONFIG_ERROR", "template_source")
    assert found["metadata"]["errors"][0]["agent"] == "preprocessing" and shared.counts() == before


def test_ten_thousand_nodes(api: Api) -> None:
    nodes = [{"agent_name": f"n{number}", "agent_class": "DatasetAgent"} for number in range(10_000)]
    answer = api.client.post("/jobs", json=graph(nodes=nodes))
    found = refused(api, answer, 400, "CONFIG_ERROR", "at most 100 nodes; this one has 10000")
    assert found["metadata"]["errors"][0]["field"] == "nodes"


def test_a_mapping_to_a_column_that_is_not_there(shared: Api) -> None:
    made = shared.upload().json()
    pipeline = body("bad", preprocessing={"template_mapping": {"instruction": "frage", "output": "answer"}})
    pipeline["pipeline_config"]["nodes"][0]["config"] = {"dataset_id": made["dataset_id"]}
    refused(shared, shared.client.post("/jobs", json=pipeline), 400, "DATASET_ERROR", "frage", "question", "preprocessing")
    pipeline["pipeline_config"]["nodes"][0]["config"] = {"dataset_id": made["dataset_id"], "columns": ["question"]}
    good = {"instruction": "question", "output": "answer"}
    pipeline["pipeline_config"]["nodes"][2]["config"]["template_mapping"] = good
    refused(shared, shared.client.post("/jobs", json=pipeline), 400, "DATASET_ERROR", "answer")
    pipeline["pipeline_config"]["nodes"][0]["config"] = {"dataset_id": made["dataset_id"], "columns": ["question", "antwort"]}
    refused(shared, shared.client.post("/jobs", json=pipeline), 400, "DATASET_ERROR", "antwort")
    pipeline["pipeline_config"]["nodes"][0]["config"] = {"dataset_id": made["dataset_id"]}
    assert shared.client.post("/jobs", json=pipeline).status_code == 200


def graph(*edges: tuple[str, str], nodes: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    request = body("bad")
    config = request["pipeline_config"]
    config["edges"] = [{"from_agent": source, "to_agent": target} for source, target in edges]
    config["nodes"] = config["nodes"] if nodes is None else nodes
    return request


GOOD = (("dataset", "validation"), ("validation", "preprocessing"))
NODE = {"agent_name": "dataset", "agent_class": "DatasetAgent", "config": {"file_path": "s3://datasets/training_data.csv"}}


@pytest.mark.parametrize(
    ("request_body", "code", "words"),
    [
        (graph(*GOOD, ("preprocessing", "dataset")), "CONFIG_ERROR", ("cycle", "preprocessing")),
        (graph(*GOOD, ("nowhere", "validation")), "CONFIG_ERROR", ("nowhere",)),
        (graph(*GOOD, ("dataset", "dataset")), "CONFIG_ERROR", ("itself",)),
        (graph(*GOOD, GOOD[0]), "CONFIG_ERROR", ("2 times",)),
        (graph(GOOD[0]), "CONFIG_ERROR", ("preprocessing", "at least 1")),
        (graph(nodes=[NODE, NODE]), "CONFIG_ERROR", ("dataset", "unique")),
        (graph(nodes=[]), "CONFIG_ERROR", ("no nodes",)),
        (graph(nodes=[{**NODE, "agent_name": f"n{i}"} for i in range(1_500)]), "CONFIG_ERROR", ("at most 100",)),
        (graph(nodes=[{**NODE, "agent_class": "EvilAgent"}]), "CONFIG_ERROR", ("EvilAgent", "DatasetAgent")),
        (graph(nodes=[{**NODE, "agent_class": "os.system"}]), "CONFIG_ERROR", ("os.system",)),
        (graph(nodes=[{**NODE, "agent_name": "../x"}]), "VALIDATION_ERROR", ("agent_name",)),
        (body("../x"), "VALIDATION_ERROR", ("run_id",)),
        (body("a\nb"), "VALIDATION_ERROR", ("run_id",)),
        (body("bad\n"), "VALIDATION_ERROR", ("run_id",)),
        (body("bad", dataset={"format": "xlsx"}), "VALIDATION_ERROR", ("DatasetAgent", "format")),
        (body("bad", preprocessing={"temlpate": "alpaca"}), "VALIDATION_ERROR", ("did you mean 'template'",)),
        (body("bad", preprocessing={"template": "{{ ().__class__ }}"}), "VALIDATION_ERROR", ("template",)),
        (body("bad", preprocessing={"trust_remote_code": True}), "CONFIG_ERROR", ("code from model repositories is never run",)),
        (body("bad", preprocessing={"lora": 1, "split": {"trust_remote_code": False}}), "CONFIG_ERROR", ("never run", "lora")),
        (body("bad", config={"trust_remote_code": True}), "CONFIG_ERROR", ("code from model repositories is never run",)),
        (body("bad", config={"global_config": {"max_retries": True}}), "VALIDATION_ERROR", ("max_retries",)),
        ({**body("bad"), "status": "completed"}, "VALIDATION_ERROR", ("status",)),
        (body("bad", config={"owner": "me"}), "VALIDATION_ERROR", ("owner",)),
        (body("bad", config={"created_at": "2020-01-01T00:00:00Z"}), "VALIDATION_ERROR", ("created_at",)),
        ({}, "VALIDATION_ERROR", ("pipeline_config", "field required")),
        ([], "VALIDATION_ERROR", ()),
        (None, "VALIDATION_ERROR", ()),
    ],
)
def test_a_body_that_cannot_work(shared: Api, request_body: Any, code: str, words: tuple[str, ...]) -> None:
    before = shared.counts()
    refused(shared, shared.client.post("/jobs", json=request_body), 400, code, *words)
    assert shared.counts() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("learning_rate", v) for v in ("0", "-1", '"fast"', "1e999", "true", "11")]
    + [("epochs", v) for v in ("-1", "0", "1000000000000", "1.5", '"3"')]
    + [("lora_r", "0"), ("lora_r", "1025"), ("lora_rank", "8"), ("batch_size", "1000000000"), ("max_steps", "1" + "0" * 30)],
)
def test_training_numbers(shared: Api, field: str, value: str) -> None:
    request = body("bad")
    request["pipeline_config"]["nodes"].append({"agent_name": "train", "agent_class": "TrainingAgent", "config": {field: "VALUE"}})
    request["pipeline_config"]["edges"].append({"from_agent": "preprocessing", "to_agent": "train"})
    text = json.dumps(request).replace('"VALUE"', value)
    answer = shared.client.post("/jobs", content=text, headers={"content-type": "application/json"})
    found = refused(shared, answer, 400, "VALIDATION_ERROR", "TrainingAgent")
    assert found["metadata"]["errors"][0]["field"] == field and found["metadata"]["errors"][0]["agent"] == "train"
    if field == "lora_rank":
        assert "lora_r'" in answer.text


def test_a_preflight_runs_no_code_of_a_model_either(shared: Api) -> None:
    request = {"dataset_id": "ds_1", "config": {"base_model": "llm-platform/tiny-llama", "trust_remote_code": True}}
    found = refused(shared, shared.client.post("/preflight", json=request), 400, "CONFIG_ERROR", "never run")
    assert found["metadata"]["errors"][0]["field"] == "config.trust_remote_code"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("path", ["/jobs", "/preflight"])
def test_numbers_that_are_none(shared: Api, path: str, value: str) -> None:
    request = body("bad")
    training = {"agent_name": "train", "agent_class": "TrainingAgent", "config": {"learning_rate": "VALUE"}}
    request["pipeline_config"]["nodes"].append(training)
    before = shared.counts()
    text = json.dumps(request).replace('"VALUE"', value)
    answer = shared.client.post(path, content=text, headers={"content-type": "application/json"})
    found = refused(shared, answer, 400, "VALIDATION_ERROR", f"{value} is not JSON", "finite")
    assert found["metadata"]["errors"][0]["field"] == "pipeline_config.nodes.3.config.learning_rate"
    assert shared.counts() == before


def test_a_number_that_is_none_where_there_is_much_else(shared: Api) -> None:
    text = b'{"a": [[NaN]], "b":' + b"[" * 900 + b"]" * 900 + b', "c": [' + b"NaN," * 10_000 + b'1], "\\ud800": 1}'
    answer = shared.client.post("/jobs", content=text, headers={"content-type": "application/json"})
    found = refused(shared, answer, 400, "VALIDATION_ERROR", "NaN")
    assert found["metadata"]["errors"][0]["field"] == "a.0.0"
    answer = shared.client.post("/jobs", content=b"NaN", headers={"content-type": "application/json"})
    assert refused(shared, answer, 400, "VALIDATION_ERROR")["metadata"]["errors"][0]["field"] == "body"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"{", "application/json"),
        (b"", "application/json"),
        (b"[" * 100_000 + b"]" * 100_000, "application/json"),
        (b'{"a":' * 33_000, "application/json"),
        (b'{"pipeline_config": 1, "pipeline_config": 2}', "application/json"),
        (b'{"pipeline_config": NaN}', "application/json"),
        (b'{"pipeline_config": -Infinity}', "application/json"),
        (b'{"pipeline_config": "\xff"}', "application/json"),
        (b'{"pipeline_config": "\\ud800"}', "application/json"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "application/json"),
        (b'{"pipeline_config": ' + b"1" * 10_000 + b"}", "application/json"),
        (b"{}", "text/plain"),
        (b"{}", "application/jsonp"),
        (b"a=b", "application/x-www-form-urlencoded"),
    ],
)
@pytest.mark.timeout(30)
def test_text_that_is_not_the_json_we_take(shared: Api, text: bytes, kind: str) -> None:
    answer = shared.client.post("/jobs", content=text, headers={"content-type": kind})
    refused(shared, answer, 400, "VALIDATION_ERROR")


def test_a_body_that_is_too_large(shared: Api) -> None:
    def chunks() -> Any:
        for _ in range(50):
            yield b" " * 10_000

    headers = {"content-type": "application/json"}
    for content in (b" " * 300_000, chunks()):
        refused(shared, shared.client.post("/jobs", content=content, headers=headers), 413, "PAYLOAD_TOO_LARGE", "200000")


def test_benchmarks_without_their_package(shared: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "find_spec", lambda name: None)
    shared.put()
    pipeline = body("benchmarks")
    nodes, edges = pipeline["pipeline_config"]["nodes"], pipeline["pipeline_config"]["edges"]
    nodes += [
        {"agent_name": "training", "agent_class": "TrainingAgent", "config": {}},
        {"agent_name": "scores", "agent_class": "EvaluationAgent", "config": {"benchmarks": ["arc_easy"]}},
    ]
    edges += [{"from_agent": "preprocessing", "to_agent": "training"}, {"from_agent": "training", "to_agent": "scores"}]
    found = refused(shared, shared.client.post("/jobs", json=pipeline), 400, "CONFIG_ERROR", "pip install 'llm-platform[eval]'")
    assert found["metadata"]["errors"][0] == {"field": "benchmarks", "agent": "scores", "message": found["message"]}
    nodes[-1]["config"]["benchmarks"] = ["../../etc/passwd"]
    refused(shared, shared.client.post("/jobs", json=pipeline), 400, "VALIDATION_ERROR", "benchmarks.0")
