"""What the REST API says of notebooks: which may run, and what became of those that ran."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from llm_platform.specs.base import Resource, shown
from llm_platform.specs.resources import ErrorBody, NodeStatus

NotebookFormat = Literal["ipynb", "html"]


class NotebookParameter(Resource):
    """One assignment of a notebook's parameters cell."""

    name: str = Field(description="The parameter's name.")
    type: str = Field(description="str, int, float or bool; empty: any of them; anything else cannot be set.")
    optional: bool = Field(description="Whether null may be given.")
    default: str | int | float | bool | None = Field(description="Its value where no other is given.")
    help: str = Field(description="The comment behind the assignment.")


class Notebook(Resource):
    """A notebook that a NotebookAgent may run."""

    model_config = shown(
        {
            "name": "evaluate_model",
            "title": "How good is the fine-tuned model?",
            "description": "A single number says little about a model. This notebook looks at an evaluation from four sides:",
            "parameters": [
                {
                    "name": "max_examples",
                    "type": "int",
                    "optional": False,
                    "default": 12,
                    "help": "rows in each table of answers",
                }
            ],
            "problem": None,
        }
    )

    name: str = Field(description="The notebook's name, without .ipynb.")
    title: str = Field(description="Its first heading.")
    description: str = Field(description="The text below the heading.")
    parameters: list[NotebookParameter] = Field(description="What may be set, in the notebook's order.")
    problem: str | None = Field(description="Why it cannot be run; null if it can.")


class JobNotebook(Resource):
    """What became of a job's notebook node."""

    model_config = shown(
        {
            "agent_name": "report",
            "notebook": "evaluate_model",
            "status": "completed",
            "started_at": "2025-12-13T01:20:00Z",
            "ended_at": "2025-12-13T01:20:19Z",
            "cells": 11,
            "seconds": 18.6,
            "formats": ["ipynb", "html"],
            "error": None,
        }
    )

    agent_name: str = Field(description="The node's name in the pipeline.")
    notebook: str | None = Field(description="Its name; null if nothing says it.")
    status: NodeStatus = Field(description="How far it is.")
    started_at: datetime = Field(description="When it was last started.")
    ended_at: datetime | None = Field(description="When it ended; null before that.")
    cells: int | None = Field(description="Code cells, of one that ran to its end.")
    seconds: float | None = Field(description="How long it took, of one that ran to its end.")
    formats: list[NotebookFormat] = Field(description="In which it can be downloaded; also of one that failed, as far as it came.")
    error: ErrorBody | None = Field(description="Why it failed; null if it did not.")
