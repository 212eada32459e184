"""`client.notebooks` of `AsyncClient`."""

from __future__ import annotations

from pathlib import Path

from llm_platform.client import calls
from llm_platform.client.aio.pages import AsyncListing
from llm_platform.client.aio.transport import AsyncTransport
from llm_platform.client.archives import Landing
from llm_platform.client.notebooks import notebook_file
from llm_platform.specs.notebooks import JobNotebook, Notebook, NotebookFormat


class AsyncNotebooks:
    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self, *, limit: int = 20, offset: int = 0) -> AsyncListing[Notebook]:
        """See `Notebooks.list`."""
        return self._transport.listing(calls.notebooks(limit), offset)

    def of_job(self, job_id: str, *, limit: int = 20, offset: int = 0) -> AsyncListing[JobNotebook]:
        """See `Notebooks.of_job`."""
        return self._transport.listing(calls.notebooks_of(job_id, limit), offset)

    async def download(self, job_id: str, agent_name: str, *, format: NotebookFormat = "html", path: str | Path = ".") -> Path:
        """See `Notebooks.download`."""
        call = calls.notebook_download(job_id, agent_name, format)
        with Landing(notebook_file(Path(path), job_id, agent_name, format)) as landing:
            async with self._transport.stream(call) as response:
                async for chunk in response.aiter_bytes():
                    landing.write(chunk)
            return landing.keep()
