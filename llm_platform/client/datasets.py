"""`client.datasets`: upload files and look at what is there."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

from llm_platform.client.pages import Page
from llm_platform.client.transport import Transport, parse
from llm_platform.specs.agents import Format
from llm_platform.specs.resources import Dataset, DatasetUploaded, Preview, Profile
from llm_platform.specs.resources import Page as PageResource

Progress = Callable[[int, int], None]
BAR = 30


class Datasets:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, path: str | Path, format: Format | None = None, *, on_progress: Progress | None = None) -> DatasetUploaded:
        """Sends a file (CSV, JSON, JSONL, Parquet, TXT, each also gzip), piece by piece. The format is seen from its content if not given.

        `on_progress(sent, total)` is called in bytes; without it a terminal shows a bar.
        """
        path = Path(path)
        total = path.stat().st_size
        shown = on_progress or (_bar(path.name) if sys.stderr.isatty() else None)
        with _WatchedFile(path, total, shown) as file:
            # The platform's own name for an upload is made there; this one is only for people.
            response = self._transport.request(
                "POST",
                "/datasets/upload",
                data={} if format is None else {"format": format},
                files={"file": (path.name, file, "application/octet-stream")},
            )
        return parse(DatasetUploaded, response)

    def get(self, dataset_id: str) -> Dataset:
        return parse(Dataset, self._transport.request("GET", f"/datasets/{dataset_id}"))

    def preview(self, dataset_id: str, *, limit: int = 10) -> Preview:
        """The first rows, at most 100."""
        return parse(Preview, self._transport.request("GET", f"/datasets/{dataset_id}/preview", params={"limit": limit}))

    def profile(self, dataset_id: str, *, tokenizer: str | None = None) -> Profile:
        """Layout, lengths, empty cells, duplicates, languages, examples; lengths in tokens too if a base model is named."""
        params = {} if tokenizer is None else {"tokenizer": tokenizer}
        return parse(Profile, self._transport.request("GET", f"/datasets/{dataset_id}/profile", params=params))

    def list(self, *, limit: int = 20, offset: int = 0) -> Page[Dataset]:
        """Newest first."""
        response = self._transport.request("GET", "/datasets", params={"limit": limit, "offset": offset})
        page = parse(PageResource[Dataset], response)
        return Page(page.items, page.total, page.limit, page.offset, page.has_more)


class _WatchedFile(io.BufferedReader):
    """A file that tells how far it was read, which is how far an upload has come."""

    def __init__(self, path: Path, total: int, on_progress: Progress | None) -> None:
        super().__init__(io.FileIO(path))
        self._total = total
        self._on_progress = on_progress

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self._on_progress is not None and data:
            self._on_progress(self.tell(), self._total)
        return data


def _bar(name: str) -> Progress:
    def show(sent: int, total: int) -> None:
        filled = BAR * sent // max(total, 1)
        end = "\n" if sent >= total else ""
        line = f"\rUploading {name}  [{'#' * filled}{'.' * (BAR - filled)}]  {sent / 1e6:,.1f} of {total / 1e6:,.1f} MB"
        print(line, end=end, file=sys.stderr, flush=True)

    return show
