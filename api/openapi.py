"""The OpenAPI document, with what FastAPI cannot see: bodies that are read by hand, keys, the platform's own error answers, and
what is null in an example."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_fields_from_routes, get_openapi
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

from llm_platform.specs import JobRequest
from llm_platform.specs.keys import KeyRequest
from llm_platform.specs.preflight import PreflightRequest

_KEY = "An API key of `llm-platform keys create`, or a token of the identity provider; needed where authentication is on."
_REFERENCE = "#/components/schemas/{model}"


class _AsWritten(GenerateJsonSchema):
    """Leaves examples in the order in which a person reads them."""

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value


def install(app: FastAPI) -> None:
    app.openapi = lambda: _document(app)


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for path in document["paths"].values():
            for operation in path.values():
                # Refused input is answered with 400 and the specification's body.
                operation["responses"].pop("422", None)
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for name, schema in _own_schemas(app).items():
            known = schemas.setdefault(name, schema)
            if "examples" in schema:
                known["examples"] = schema["examples"]
        document["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer", "description": _KEY}}
        document["security"] = [{"apiKey": []}, {}]
        app.openapi_schema = document
    return app.openapi_schema


def _own_schemas(app: FastAPI) -> dict[str, JsonSchemaValue]:
    """The schemas of all bodies as pydantic has them: of those that are read by hand, and of the answers."""
    wanted: dict[type[BaseModel], Literal["validation", "serialization"]] = {}
    for field in get_fields_from_routes(app.routes):
        model = field.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            wanted[model] = "serialization"
    wanted |= dict.fromkeys((JobRequest, PreflightRequest, KeyRequest), "validation")
    return models_json_schema(list(wanted.items()), ref_template=_REFERENCE, schema_generator=_AsWritten)[1]["$defs"]
