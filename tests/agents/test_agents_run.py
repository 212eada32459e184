"""Running one node: what is recorded when it ends well, fails, is cancelled or was done before."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_platform.agents import Node, Platform, run_node
from llm_platform.errors import Cancelled, DatasetError
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings


class Stopped(ListReporter):
    """The signal that cancels a node strikes while it says its first line."""

    def info(self, message: str, **data: Any) -> None:
        raise Cancelled


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = Platform.from_settings(Settings(home=tmp_path / "home"))
    yield made
    made.close()


def dataset_node(platform: Platform, tmp_path: Path, text: str = "q,a\n1,2\n3,4\n", **config: Any) -> Node:
    (tmp_path / "rows.csv").write_text(text)
    platform.storage.put_file(tmp_path / "rows.csv", "s3://datasets/rows.csv")
    body = {"run_id": "r", "agent_name": "rows", "agent_class": "DatasetAgent", "inputs": [], "peers": 1}
    return Node.from_dict({**body, "config": {"file_path": "s3://datasets/rows.csv", **config}})


def status(platform: Platform) -> str:
    row = platform.database.node("r", "rows")
    assert row is not None
    return row["status"]


def test_a_finished_node_is_recorded_and_not_computed_again(platform: Platform, tmp_path: Path) -> None:
    node = dataset_node(platform, tmp_path)
    first = run_node(platform, node, ListReporter())
    assert (status(platform), first.data["rows"], first.reused) == ("completed", 2, False)
    again = run_node(platform, node, ListReporter())
    assert again == first.model_copy(update={"reused": True})
    row = platform.database.node("r", "rows")
    assert row is not None
    assert row["attempts"] == 1


def test_a_packed_file_is_read_by_its_address(platform: Platform, tmp_path: Path) -> None:
    node = dataset_node(platform, tmp_path, file_path="s3://datasets/rows.csv.gz")
    (tmp_path / "packed").write_bytes(gzip.compress((tmp_path / "rows.csv").read_bytes()))
    platform.storage.put_file(tmp_path / "packed", "s3://datasets/rows.csv.gz")
    assert run_node(platform, node, ListReporter()).data["rows"] == 2


def test_another_config_is_another_result(platform: Platform, tmp_path: Path) -> None:
    assert run_node(platform, dataset_node(platform, tmp_path), ListReporter()).data["rows"] == 2
    limited = run_node(platform, dataset_node(platform, tmp_path, limit=1, columns=["a"]), ListReporter())
    assert (limited.reused, limited.data["rows"], limited.data["columns"]) == (False, 1, ["a"])


def test_a_failed_node_says_why(platform: Platform, tmp_path: Path) -> None:
    reporter = ListReporter()
    with pytest.raises(DatasetError):
        run_node(platform, dataset_node(platform, tmp_path, columns=["nothing"]), reporter)
    row = platform.database.node("r", "rows")
    assert row is not None
    assert (row["status"], row["error"]["error"]) == ("failed", "DATASET_ERROR")
    assert reporter.lines[-1][0] == "ERROR"
    assert list((tmp_path / "home" / "work").rglob("*.tmp")) == []


def test_a_cancelled_node_is_cancelled_not_failed(platform: Platform, tmp_path: Path) -> None:
    reporter = Stopped()
    with pytest.raises(Cancelled):
        run_node(platform, dataset_node(platform, tmp_path), reporter)
    assert status(platform) == "cancelled"
    assert [line for line in reporter.lines if line[0] == "ERROR"] == []
