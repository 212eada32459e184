"""Notebooks as clients see them: those that may run, and those that ran in a job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy.engine import RowMapping

from llm_platform import notebooks
from llm_platform.database import Database
from llm_platform.errors import NotFound
from llm_platform.settings import Settings
from llm_platform.specs import AgentClass
from llm_platform.specs.notebooks import JobNotebook, Notebook, NotebookFormat, NotebookParameter
from llm_platform.storage import Storage

ARTIFACTS: dict[NotebookFormat, str] = {"ipynb": "notebook", "html": "html"}
"""The kind of the artifact that is a notebook in a format."""
MEDIA_TYPES: dict[NotebookFormat, str] = {"ipynb": "application/x-ipynb+json", "html": "text/html; charset=utf-8"}


def described(name: str, settings: Settings, storage: Storage) -> Notebook:
    found = notebooks.describe(name, settings, storage)
    parameters = [NotebookParameter(name=p.name, type=p.type, optional=p.optional, default=p.value, help=p.help) for p in found.parameters]
    return Notebook(name=name, title=found.title, description=found.text, parameters=parameters, problem=found.problem)


def of_job(submission: RowMapping, database: Database) -> list[JobNotebook]:
    """The job's notebook nodes that have started, in that order."""
    rows = database.nodes([submission["run_id"]])[submission["run_id"]]
    pipeline = submission["pipeline"] or {"nodes": []}
    names = {node["agent_name"]: node["config"].get("notebook") for node in pipeline["nodes"]}
    return [_view(row, names.get(row["agent_name"])) for row in rows if row["agent_class"] == AgentClass.NOTEBOOK]


def _view(row: RowMapping, name: str | None) -> JobNotebook:
    result = row["result"] or {"artifacts": {}, "metrics": {}, "data": {}}
    return JobNotebook(
        agent_name=row["agent_name"],
        notebook=name or result["data"].get("notebook"),
        status=row["status"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        cells=result["data"].get("cells"),
        seconds=result["metrics"].get("notebook_seconds"),
        formats=[format for format, kind in ARTIFACTS.items() if kind in result["artifacts"]],
        error=row["error"],
    )


@dataclass(frozen=True)
class Executed:
    """A stored file of an executed notebook."""

    filename: str
    media_type: str
    size_bytes: int
    address: str
    etag: str
    """Weak: an answer may be compressed, and is then of other bytes."""

    def read(self, storage: Storage) -> Iterator[bytes]:
        return storage.read_range(self.address)


def executed(run_id: str, agent_name: str, format: NotebookFormat, database: Database, storage: Storage) -> Executed:
    """Raises NotFound if the job has no such node, or the node has left nothing in that format (yet)."""
    row = database.node(run_id, agent_name)
    if row is None or row["agent_class"] != AgentClass.NOTEBOOK:
        raise NotFound(f"The job has no notebook node '{agent_name[:100]}' that has started", agent_name=agent_name[:100])
    address = (row["result"] or {"artifacts": {}})["artifacts"].get(ARTIFACTS[format])
    if address is None:
        raise NotFound(f"Notebook node '{agent_name}' has left no {format}; it is {row['status']}", status=row["status"])
    found = storage.stat(address)
    if found is None:
        raise NotFound(f"The {format} of notebook node '{agent_name}' is no longer stored", address=address)
    version = found.sha256 or sha256(f"{found.size_bytes}\0{found.modified.isoformat()}".encode()).hexdigest()
    return Executed(f"{run_id}-{agent_name}.{format}", MEDIA_TYPES[format], found.size_bytes, address, f'W/"{version}"')
