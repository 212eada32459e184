"""The passes over the rows on a real Ray cluster of two nodes give what they give on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

from llm_platform.data.engine import Engine, LocalEngine, engine_from
from llm_platform.data.preprocess import DROPPED, preprocess
from llm_platform.data.report import FILE
from llm_platform.data.split import SPLITS
from llm_platform.errors import Cancelled, DatasetError, InvalidConfig, ServiceUnavailable
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings
from llm_platform.specs import PreprocessingConfig
from tests.executors.ray_cluster import TOKEN

pytestmark = pytest.mark.filterwarnings(r"ignore:.*is deprecated:DeprecationWarning:ray\.data\.context")
"""Ray Data warns of its own defaults."""

Table = Callable[..., Path]
FILES = [*(f"{name}.parquet" for name in SPLITS), DROPPED, FILE]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes with a CPU each. Ray reads its settings when it is imported."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets lie in it, whose paths must be short
    settings = {"AUTH_MODE": "token", "AUTH_TOKEN": TOKEN, "TMPDIR": folder}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"RAY_{name}", value)
        engine_from(Settings(data_engine="ray"))  # imports Ray as the platform does
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20)
            assert cluster.address
            yield cluster.address
        finally:
            cluster.shutdown()
            shutil.rmtree(folder)


@pytest.fixture
def engine(address: str) -> Engine:
    return engine_from(Settings(data_engine="ray", ray_address=address))


def conversation(row: dict[str, str], turns: int, end: str = "") -> dict[str, Any]:
    pair = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"] + end}]
    return {"messages": pair * turns}


def test_a_cluster_gives_the_same_bytes(
    table: Table, tokenizer_folder: Path, tmp_path: Path, problems: Callable[[int], list[dict[str, str]]], engine: Engine
) -> None:
    rows = problems(2_400)
    first = [conversation(row, number % 3 + 1) for number, row in enumerate(rows)]
    again = [conversation(row, 1, " Done.") for row in rows[::4]]
    tables = [table(part, f"t{number}") for number, part in enumerate((first[:900], again, first[900:1800], first[1800:]))]
    config = PreprocessingConfig.model_validate({"base_model": "base", "max_length": 512, "near_dedup": True})
    here = preprocess(tables, config, tokenizer_folder, tmp_path / "here", ListReporter(), engine=LocalEngine(2))
    there = preprocess(tables, config, tokenizer_folder, tmp_path / "there", ListReporter(), engine=engine)
    assert there == here
    assert here.near_duplicates >= len(again)
    assert min(here.splits.values()) > 10
    for name in FILES:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_results_come_in_order_and_an_error_in_its_turn(engine: Engine) -> None:
    errors = [{"column": "answer", "row": 7, "message": "it is empty"}]

    class Counts:
        calls = 0

        def __call__(self, number: int) -> tuple[int, int, int]:
            if number >= 20:
                raise DatasetError(f"Row {number} is wrong", errors=errors)
            self.calls += 1
            return number, os.getpid(), self.calls

    results = engine.map(Counts(), range(30))
    found = [next(results) for _ in range(20)]
    assert [number for number, _, _ in found] == list(range(20))
    for worker in {pid for _, pid, _ in found}:  # what the function has loaded stays with it
        calls = sorted(call for _, pid, call in found if pid == worker)
        assert calls == list(range(1, len(calls) + 1))
    with pytest.raises(DatasetError, match="Row 20 is wrong") as caught:
        next(results)
    assert caught.value.metadata == {"errors": errors}
    assert "in __call__" in caught.value.__notes__[0]  # the worker's traceback


def test_a_node_that_does_not_see_the_files_is_named(engine: Engine, tmp_path: Path) -> None:
    class Reads:
        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def __call__(self, number: int) -> int:
            return number

    with pytest.raises(InvalidConfig, match=r"does not see elsewhere; .* mount under the same paths") as caught:
        list(engine.map(Reads(tmp_path / "elsewhere"), [1]))
    assert caught.value.metadata["file"] == "elsewhere"
    assert len(caught.value.metadata["node"]) > 20
    assert str(tmp_path) not in caught.value.message


def test_work_ends_when_its_results_are_no_longer_wanted(engine: Engine) -> None:
    import ray

    def never_ends(number: int) -> int:
        if number > 3:
            Event().wait()
        return os.getpid()

    workers: list[psutil.Process] = []
    with pytest.raises(Cancelled):
        for pid in engine.map(never_ends, range(10)):
            workers.append(psutil.Process(pid))
            raise Cancelled
    (worker,) = workers
    worker.wait(60)
    assert not ray.is_initialized()


def test_an_address_where_no_cluster_is() -> None:
    from llm_platform.data.ray_engine import RayEngine

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ServiceUnavailable, match="LLM_PLATFORM_RAY_ADDRESS"):
        list(RayEngine(f"127.0.0.1:{port}").map(len, ["a"]))
    with pytest.raises(InvalidConfig, match="HOST:PORT"):
        list(RayEngine("ray://head:10001").map(len, ["a"]))


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "llm_platform.data.ray_engine", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidConfig, match=r"pip install 'llm-platform\[ray\]'"):
        engine_from(Settings(data_engine="ray"))
    assert isinstance(engine_from(Settings()), LocalEngine)


@pytest.mark.slow
def test_without_an_address_a_cluster_lives_as_long_as_the_work(address: str) -> None:
    import ray

    from llm_platform.data.ray_engine import RayEngine

    before = signal.getsignal(signal.SIGTERM)
    results = RayEngine().map(lambda text: ray.get_runtime_context().gcs_address, ["a", "b"])
    assert next(results) != address
    assert signal.getsignal(signal.SIGTERM) is before
    assert isinstance(results, Generator)
    results.close()
    assert not ray.is_initialized()
