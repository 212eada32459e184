"""What the REST API says of notebooks: which may run, and what became of those that ran."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from llm_platform.specs.base import Resource
from llm_platform.specs.resources import ErrorBody, NodeStatus

NotebookFormat = Literal["ipynb", "html"]


class NotebookParameter(Resource):
    """One assignment of a notebook's parameters cell."""

    name: str
    type: str = Field(description="str, int, float or bool; empty: any of them; anything else cannot be set.")
    optional: bool = Field(description="Whether null may be given.")
    default: str | int | float | bool | None
    help: str = Field(description="The comment behind the assignment.")


class Notebook(Resource):
    """A notebook that a NotebookAgent may run."""

    name: str
    title: str
    description: str
    parameters: list[NotebookParameter]
    problem: str | None = Field(description="Why it cannot be run; null if it can.")


class JobNotebook(Resource):
    """What became of a job's notebook node."""

    agent_name: str
    notebook: str | None = Field(description="Its name; null if nothing says it.")
    status: NodeStatus
    started_at: datetime
    ended_at: datetime | None
    cells: int | None = Field(description="Code cells, of one that ran to its end.")
    seconds: float | None = Field(description="How long it took, of one that ran to its end.")
    formats: list[NotebookFormat] = Field(description="In which it can be downloaded; also of one that failed, as far as it came.")
    error: ErrorBody | None
