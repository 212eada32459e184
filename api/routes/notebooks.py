"""Notebooks: which may run, and what ran in a job, to read and to keep."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response, StreamingResponse
from sqlalchemy.engine import RowMapping

from api.deps import CallerDep, JobOrRunId, NodeName, PageDep, ServicesDep, submission
from api.download import known
from llm_platform import notebook_views, notebooks
from llm_platform.notebooks import POLICY
from llm_platform.specs.notebooks import JobNotebook, Notebook, NotebookFormat
from llm_platform.specs.resources import Page

router = APIRouter(tags=["notebooks"])

_NOTEBOOK = {"type": "object", "examples": [{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}]}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ipynb+json": {"schema": _NOTEBOOK}, "text/html": {"schema": {"type": "string"}}}},
    304: {"description": "The client has it already, by its `If-None-Match`."},
}
_LOCKED = {"Content-Security-Policy": f"sandbox; {POLICY}", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
"""A notebook shows what a dataset or a model says: nothing in it may act in this origin."""


def submission_of(job_id: JobOrRunId, services: ServicesDep, caller: CallerDep) -> RowMapping:
    """The row of a job, by its id or its run id. Raises NotFound, also for another's."""
    return submission(job_id if job_id.startswith("job_") else f"job_{job_id}", services, caller)


JobRow = Annotated[RowMapping, Depends(submission_of)]


@router.get("/notebooks")
def list_notebooks(services: ServicesDep, page: PageDep) -> Page[Notebook]:
    """The notebooks that a NotebookAgent may run, by name, with the parameters that each takes."""
    names = sorted(notebooks.allowed(services.settings, services.storage))
    shown = [notebook_views.described(name, services.settings, services.storage) for name in names[page.offset : page.offset + page.limit]]
    return Page(items=shown, **page.bounds(len(names)))


@router.get("/jobs/{job_id}/notebooks")
def of_job(row: JobRow, services: ServicesDep, page: PageDep) -> Page[JobNotebook]:
    """The notebooks of a job that have started, also those that failed."""
    found = notebook_views.of_job(row, services.database)
    return Page(items=found[page.offset : page.offset + page.limit], **page.bounds(len(found)))


@router.get("/jobs/{job_id}/notebooks/{agent_name}", response_class=Response, responses=_FILE)
def download(
    row: JobRow,
    services: ServicesDep,
    agent_name: NodeName,
    format: Annotated[NotebookFormat, Query(description="The notebook itself, or a page to read.")] = "ipynb",
    if_none_match: Annotated[
        str | None, Header(description="An `ETag`, or several with commas between them: a notebook that has one is not sent (304).")
    ] = None,
) -> Response:
    """A notebook as it ran: `ipynb` to open in Jupyter, `html` to read in a browser."""
    found = notebook_views.executed(row["run_id"], agent_name, format, services.database, services.storage)
    if known(found.etag, if_none_match):
        return Response(status_code=304, headers={"ETag": found.etag})
    how = "inline" if format == "html" else "attachment"
    headers = {"Content-Length": str(found.size_bytes), "Content-Disposition": f'{how}; filename="{found.filename}"', "ETag": found.etag}
    return StreamingResponse(found.read(services.storage), 200, headers | _LOCKED, found.media_type)
