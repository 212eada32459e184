"""Our specs as Dagster config, so that the launchpad shows the same typed fields as REST.

A plain pydantic model nested in `dg.Config` fails when the definitions load, so the same fields are rebuilt on
`dg.Config`, recursively. Bounds and patterns are left to the spec itself, which checks them when the step starts:
Dagster's config system does not know them.
"""

from __future__ import annotations

import types
import typing
from functools import cache
from typing import Any, Literal

import dagster as dg
from pydantic import BaseModel, Field, create_model

from llm_platform.specs import CONFIGS, AgentClass


@cache
def as_dagster(model: type[BaseModel]) -> type[dg.Config]:
    """The `dg.Config` with the fields of `model`."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            default = as_dagster(type(default))(**default.model_dump())
        shown = Field(description=field.description) if field.is_required() else Field(default=default, description=field.description)
        fields[name] = (_annotation(field.annotation), shown)
    return create_model(f"{model.__name__}Launchpad", __base__=dg.Config, __doc__=model.__doc__, **fields)


def _annotation(annotation: Any) -> Any:
    """What Dagster's config system can show of a type: a union of scalars becomes their common denominator."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return as_dagster(annotation)
    if origin is typing.Annotated:
        return _annotation(args[0])
    if origin is Literal:
        return str
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        shown = _annotation(inner[0]) if len(inner) == 1 else Any
        return shown | None if len(inner) < len(args) and shown is not Any else shown
    if origin is list:
        return types.GenericAlias(list, (_annotation(args[0]),))
    if origin is dict:
        return dict[str, Any | None]
    return annotation


@cache
def stage_config(agent_class: AgentClass) -> type[dg.Config]:
    """Config of a stage: its nodes, each with its typed config and the names of the nodes whose edges lead to it."""
    node = create_model(
        f"{agent_class.value}Node",
        __base__=dg.Config,
        agent_name=(str, Field(description="Name of the node in the graph.")),
        inputs=(list[str], Field(default=[], description="Names of the nodes whose results it takes.")),
        config=(as_dagster(CONFIGS[agent_class]), Field(description=f"Config of the {agent_class.value}.")),
    )
    many: Any = types.GenericAlias(list, (node,))
    return create_model(
        f"{agent_class.value}Stage",
        __base__=dg.Config,
        nodes=(many, Field(default=[], description="The nodes of this stage.")),
        max_retries=(int, Field(default=0, description="Retries of a node whose failure can pass by itself.")),
    )
