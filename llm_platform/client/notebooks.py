"""`client.notebooks`: which notebooks may run, what ran in a job, and its files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import quote

from llm_platform.client.pages import Page
from llm_platform.client.transport import Transport, parse
from llm_platform.specs import resources
from llm_platform.specs.notebooks import JobNotebook, Notebook, NotebookFormat


class Notebooks:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int = 20, offset: int = 0) -> Page[Notebook]:
        """The notebooks that a NotebookAgent may run, by name, with their parameters."""
        response = self._transport.request("GET", "/notebooks", params={"limit": limit, "offset": offset})
        page = parse(resources.Page[Notebook], response)
        return Page(page.items, page.total, page.limit, page.offset, page.has_more)

    def of_job(self, job_id: str, *, limit: int = 20, offset: int = 0) -> Page[JobNotebook]:
        """The notebooks of a job, by its id or its run id, that have started."""
        response = self._transport.request("GET", f"{_path(job_id)}/notebooks", params={"limit": limit, "offset": offset})
        page = parse(resources.Page[JobNotebook], response)
        return Page(page.items, page.total, page.limit, page.offset, page.has_more)

    def download(self, job_id: str, agent_name: str, *, format: NotebookFormat = "html", path: str | Path = ".") -> Path:
        """The notebook of a job's node, as it ran, in a file; where that lies.

        `html` is a page to read, `ipynb` opens in Jupyter. A folder gets a file named by the job and the node.
        """
        target = Path(path)
        target = target / f"{job_id.removeprefix('job_')}-{agent_name}.{format}" if target.is_dir() else target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as scratch:
            file = Path(scratch) / "download"
            where = f"{_path(job_id)}/notebooks/{quote(agent_name, safe='')}"
            with self._transport.stream(where, params={"format": format}) as response, file.open("wb") as out:
                for chunk in response.iter_bytes():
                    out.write(chunk)
            file.replace(target)
        return target


def _path(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}"
