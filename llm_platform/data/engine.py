"""Where the passes over the rows run: on the cores of this machine, or on a Ray cluster."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from llm_platform.errors import InvalidConfig
from llm_platform.settings import Settings

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Engine(Protocol):
    """Runs a pure, picklable function over items; whatever the engine, the results are the same and come in the items' order."""

    def map(self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Iterator[ResultT]: ...


class LocalEngine:
    """Threads of this process: polars, the tokenizer and MinHash leave the interpreter's lock alone while they work."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or os.cpu_count() or 1

    def map(self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Iterator[ResultT]:
        """Only as many results as there are threads wait to be taken, so memory does not grow with the items."""
        waiting: deque[Future[ResultT]] = deque()
        with ThreadPoolExecutor(self._threads, "data") as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(function, item))
                    if len(waiting) > self._threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()


def engine_from(settings: Settings) -> Engine:
    """The engine that the operator chose (LLM_PLATFORM_DATA_ENGINE). Raises InvalidConfig if it is Ray, which is not installed."""
    if settings.data_engine == "ray":
        try:
            from llm_platform.data.ray_engine import RayEngine
        except ModuleNotFoundError as error:
            raise InvalidConfig("LLM_PLATFORM_DATA_ENGINE is ray, but Ray is missing: pip install 'llm-platform[ray]'") from error
        return RayEngine(settings.ray_address)
    return LocalEngine()
