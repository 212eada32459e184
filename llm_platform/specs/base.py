"""What every model of the specification's wire format has in common."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from llm_platform.errors import InvalidConfig, InvalidInput

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
"""Run ids and node names: they become partition keys, folder names and parts of URLs."""
MODEL_ID = r"^model_[A-Za-z0-9][A-Za-z0-9_-]{0,63}(\.[A-Za-z0-9][A-Za-z0-9_-]{0,63})?$"

REMOTE_CODE = "trust_remote_code"
"""What other programs call it to run code that comes with a model; nowhere is it a field."""

ModelT = TypeVar("ModelT", bound=BaseModel)


class Spec(BaseModel):
    """Something a client sends: unknown fields, booleans as numbers, numbers as strings, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True)


class Resource(BaseModel):
    """Something the platform answers with."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


def shown(*examples: dict[str, Any]) -> ConfigDict:
    """The part of a model's config that puts examples into its JSON schema; a subclass has the same, or its own."""
    return ConfigDict(json_schema_extra={"examples": list(examples)})


def problems(model: type[BaseModel], data: Any, prefix: str = "") -> list[dict[str, Any]]:
    """Every reason why `data` is not a `model`, as {field, message}; an empty list if it is one."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        return [_problem(model, item, prefix) for item in error.errors(include_url=False, include_context=False)]
    return []


def refused(message: str, errors: list[dict[str, Any]]) -> InvalidInput | InvalidConfig:
    """The error for fields that are wrong; where one of them asks for a model's own code, that is what it says."""
    asked = [error for error in errors if error["field"].rpartition(".")[2] == REMOTE_CODE]
    return InvalidConfig(asked[0]["message"], errors=errors) if asked else InvalidInput(message, errors=errors)


def spec_from_options(model: type[ModelT], options: Mapping[str, Any]) -> ModelT:
    """The spec that a command's options describe; those that are None keep its defaults. Raises InvalidInput, naming options."""
    given = {name: value for name, value in options.items() if value is not None}
    if errors := problems(model, given):
        raise InvalidInput("; ".join(f"--{error['field'].replace('_', '-')}: {error['message']}" for error in errors))
    return model.model_validate(given)


def _problem(model: type[BaseModel], item: Any, prefix: str) -> dict[str, Any]:
    path = [str(part) for part in item["loc"]]
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        message = "field required"
    elif item["type"] == "extra_forbidden":
        message = _unknown_field(model, path)
    return {"field": ".".join([*([prefix] if prefix else []), *path]), "message": message}


def _unknown_field(model: type[BaseModel], path: list[str]) -> str:
    if path[-1] == REMOTE_CODE:
        return f"code from model repositories is never run; leave '{REMOTE_CODE}' out"
    known = _fields_at(model, path[:-1])
    close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"known fields: {', '.join(known)}"
    return f"unknown field '{path[-1][:100]}'; {hint}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part) or next((f for f in model.model_fields.values() if f.alias == part), None)
        annotation = field.annotation if field else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if inner is None:
            return [] if field is None and not part.isdigit() else sorted(_names(model))
        model = inner
    return sorted(_names(model))


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
