"""The OpenAPI document, with what FastAPI cannot see: bodies that are read by hand, keys, and the platform's own error answers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from llm_platform.specs import JobRequest
from llm_platform.specs.keys import KeyRequest
from llm_platform.specs.preflight import PreflightRequest

_KEY = "An API key of `llm-platform keys create`, or a token of the identity provider; needed where authentication is on."
_REFERENCE = "#/components/schemas/{model}"


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
        for model in (JobRequest, PreflightRequest, KeyRequest):
            request = model.model_json_schema(ref_template=_REFERENCE)
            schemas.update(request.pop("$defs", {}))
            schemas[model.__name__] = request
        document["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer", "description": _KEY}}
        document["security"] = [{"apiKey": []}, {}]
        app.openapi_schema = document
    return app.openapi_schema
