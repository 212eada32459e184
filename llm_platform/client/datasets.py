"""`client.datasets`: upload files and look at what is there."""

from __future__ import annotations

from pathlib import Path

from llm_platform.client import calls
from llm_platform.client.pages import Page
from llm_platform.client.progress import Progress, WatchedFile
from llm_platform.client.transport import Transport
from llm_platform.specs.agents import Format
from llm_platform.specs.resources import Dataset, DatasetUploaded, Preview, Profile


class Datasets:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, path: str | Path, format: Format | None = None, *, on_progress: Progress | None = None) -> DatasetUploaded:
        """Sends a file (CSV, JSON, JSONL, Parquet, TXT, each also gzip), piece by piece. The format is seen from its content if not given.

        `on_progress(sent, total)` is called in bytes; without it a terminal or notebook shows a bar.
        """
        path = Path(path)
        with WatchedFile(path, on_progress) as file:
            return self._transport.run(calls.upload(path.name, file, format))

    def get(self, dataset_id: str) -> Dataset:
        return self._transport.run(calls.dataset(dataset_id))

    def preview(self, dataset_id: str, *, limit: int = 10) -> Preview:
        """The first rows, at most 100."""
        return self._transport.run(calls.preview(dataset_id, limit))

    def profile(self, dataset_id: str, *, tokenizer: str | None = None) -> Profile:
        """Layout, lengths, empty cells, duplicates, languages, examples; lengths in tokens too if a base model is named."""
        return self._transport.run(calls.profile(dataset_id, tokenizer))

    def list(self, *, limit: int = 20, offset: int = 0) -> Page[Dataset]:
        """Newest first."""
        return self._transport.page(calls.datasets(limit), offset)
