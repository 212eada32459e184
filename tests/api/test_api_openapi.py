"""The OpenAPI document says of everything what it is, and shows an example of every body, which is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api.main import create_app
from llm_platform.specs import parse_job_request

DOCUMENT: dict[str, Any] = json.loads(json.dumps(create_app().openapi()))
OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": operation for path, operations in DOCUMENT["paths"].items() for method, operation in operations.items()
}


def test_every_parameter_and_every_property_has_a_description() -> None:
    assert len(OPERATIONS) > 25
    assert list(undescribed(DOCUMENT)) == []


def undescribed(value: Any, at: str = "") -> Iterator[str]:
    """Where something has a name and no description: parameters, answers, and the properties of schemas however deep."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from undescribed(item, f"{at}/{number}")
    if not isinstance(value, dict):
        return
    for kind in ("properties", "responses"):
        if isinstance(value.get(kind), dict):
            yield from (f"{at}/{kind}/{name}" for name, item in value[kind].items() if not said(item))
    if isinstance(value.get("parameters"), list):
        yield from (f"{at}/{item['name']} in {item['in']}" for item in value["parameters"] if not said(item))
    for name, item in value.items():
        # What an example or a default holds is data.
        if name not in ("examples", "example", "default"):
            yield from undescribed(item, f"{at}/{name}")


def said(item: dict[str, Any]) -> bool:
    return bool(item.get("description", "").strip())


def test_what_has_no_description_is_found() -> None:
    assert list(undescribed({"properties": {"a": {"type": "object", "properties": {"b": {"description": "x"}, "c": {}}}}})) == [
        "/properties/a",
        "/properties/a/properties/c",
    ]
    assert list(undescribed({"get": {"parameters": [{"name": "limit", "in": "query"}]}})) == ["/get/limit in query"]


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every request body, and every answer that is JSON and not an error's."""
    for name, operation in OPERATIONS.items():
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{name} {kind}", content
        for status, answer in operation["responses"].items():
            for kind, content in answer.get("content", {}).items():
                if status.startswith("2") and kind.endswith("json"):
                    yield f"{name} {status}", content


BODIES = dict(bodies())
SCHEMAS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]


@pytest.mark.parametrize("name", BODIES)
def test_every_body_has_an_example_that_names_all_that_there_can_be(name: str) -> None:
    schema = named(BODIES[name]["schema"])
    assert schema.get("examples"), name
    if not name.startswith("POST") or "200" in name:
        assert {field for example in schema["examples"] for field in example} >= schema.get("properties", {}).keys()


def test_the_error_body_has_an_example() -> None:
    assert SCHEMAS["ErrorBody"]["examples"]


def test_every_example_fits_its_schema() -> None:
    schemas = {**SCHEMAS, **{name: body["schema"] for name, body in BODIES.items()}}
    checked = 0
    for name, schema in schemas.items():
        validator = Draft202012Validator({**schema, "components": DOCUMENT["components"]})
        for example in schema.get("examples", []):
            checked += 1
            assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(example)] == [], name
    assert checked > 25


def test_the_example_of_a_job_is_one() -> None:
    for example in SCHEMAS["JobRequest"]["examples"]:
        assert [node.agent_name for node in parse_job_request(example).nodes] == ["dataset", "validation", "preprocessing"]


def test_the_document_is_always_the_same() -> None:
    assert json.dumps(create_app().openapi()) == json.dumps(DOCUMENT)


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
def test_health_declares_what_it_can_answer(path: str) -> None:
    answers = DOCUMENT["paths"][path]["get"]["responses"]
    kinds = {status: json.dumps(answer["content"]["application/json"]["schema"]) for status, answer in answers.items()}
    assert kinds.keys() == {"200", "503", "4XX", "5XX"}
    assert "Health" in kinds["200"] and "ErrorBody" in kinds["4XX"] and "ErrorBody" in kinds["5XX"]
    assert "schemas/Health" in kinds["503"] and "schemas/ErrorBody" in kinds["503"]


def named(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, where another one only refers to it."""
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
