"""`client.notebooks`: which notebooks may run, what ran in a job, and its files."""

from __future__ import annotations

from pathlib import Path

from llm_platform.client import calls
from llm_platform.client.archives import Landing
from llm_platform.client.pages import Page
from llm_platform.client.transport import Transport
from llm_platform.specs.notebooks import JobNotebook, Notebook, NotebookFormat


class Notebooks:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int = 20, offset: int = 0) -> Page[Notebook]:
        """The notebooks that a NotebookAgent may run, by name, with their parameters."""
        return self._transport.page(calls.notebooks(limit), offset)

    def of_job(self, job_id: str, *, limit: int = 20, offset: int = 0) -> Page[JobNotebook]:
        """The notebooks of a job, by its id or its run id, that have started."""
        return self._transport.page(calls.notebooks_of(job_id, limit), offset)

    def download(self, job_id: str, agent_name: str, *, format: NotebookFormat = "html", path: str | Path = ".") -> Path:
        """The notebook of a job's node, as it ran, in a file; where that lies.

        `html` is a page to read, `ipynb` opens in Jupyter. A folder gets a file named by the job and the node.
        """
        call = calls.notebook_download(job_id, agent_name, format)
        with Landing(notebook_file(Path(path), job_id, agent_name, format)) as landing, self._transport.stream(call) as response:
            for chunk in response.iter_bytes():
                landing.write(chunk)
            return landing.keep()


def notebook_file(target: Path, job_id: str, agent_name: str, format: NotebookFormat) -> Path:
    """The file for a download: the target itself, or one in the folder that it is."""
    return target / f"{job_id.removeprefix('job_')}-{agent_name}.{format}" if target.is_dir() else target
