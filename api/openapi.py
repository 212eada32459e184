"""The OpenAPI document, with what FastAPI cannot see: bodies that are read by hand, keys, the platform's own error answers, and
what is null in an example."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_fields_from_routes, get_openapi
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

from llm_platform.specs import JobRequest
from llm_platform.specs.agents import CONFIGS
from llm_platform.specs.keys import KeyRequest
from llm_platform.specs.preflight import PreflightRequest

_KEY = "An API key of `llm-platform keys create`, or a token of the identity provider; needed where authentication is on."
_REFERENCE = "#/components/schemas/{model}"


class _AsWritten(GenerateJsonSchema):
    """Leaves examples in the order in which a person reads them."""

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value


def install(app: FastAPI, *, authentication: bool, without_key: Collection[str]) -> None:
    """Serves the document. Without authentication a key is optional; with it, all but the paths `without_key` need one."""
    app.openapi = lambda: _document(app, authentication, without_key)


def _document(app: FastAPI, authentication: bool, without_key: Collection[str]) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for path, operations in document["paths"].items():
            for operation in operations.values():
                # Refused input is answered with 400 and the specification's body.
                operation["responses"].pop("422", None)
                if authentication and path in without_key:
                    operation["security"] = []
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for name, schema in _own_schemas(app).items():
            known = schemas.setdefault(name, schema)
            if "examples" in schema:
                known["examples"] = schema["examples"]
        document["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer", "description": _KEY}}
        document["security"] = [{"apiKey": []}] if authentication else [{"apiKey": []}, {}]
        app.openapi_schema = document
    return app.openapi_schema


def _own_schemas(app: FastAPI) -> dict[str, JsonSchemaValue]:
    """The schemas of all bodies as pydantic has them: of those that are read by hand, and of the answers."""
    wanted: dict[type[BaseModel], Literal["validation", "serialization"]] = {}
    for field in get_fields_from_routes(app.routes):
        model = field.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            wanted[model] = "serialization"
    wanted |= dict.fromkeys((JobRequest, PreflightRequest, KeyRequest, *CONFIGS.values()), "validation")
    schemas = models_json_schema(list(wanted.items()), ref_template=_REFERENCE, schema_generator=_AsWritten)[1]["$defs"]
    schemas["Node"] = {
        "title": "Node",
        "description": "An agent and its config.",
        "oneOf": [_node(schemas["Node"], agent_class, schemas[model.__name__]) for agent_class, model in CONFIGS.items()],
    }
    return schemas


def _node(node: JsonSchemaValue, agent_class: str, config: JsonSchemaValue) -> JsonSchemaValue:
    """The schema of a node with that agent. (Its model takes any config, which is parsed once all nodes are known.)"""
    properties = node["properties"]
    return {
        **node,
        "title": f"{agent_class} node",
        "properties": properties
        | {
            "agent_class": {"const": str(agent_class), "description": properties["agent_class"]["description"]},
            "config": {"$ref": _REFERENCE.format(model=config["title"]), "description": properties["config"]["description"]},
        },
        "required": [*node["required"], *(["config"] if "required" in config else [])],
    }
