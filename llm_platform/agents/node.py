"""A node as it runs: its typed config, where its inputs lie, where its results go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_platform.data.digest import digest
from llm_platform.database import Database
from llm_platform.errors import InvalidConfig
from llm_platform.registry import Registry
from llm_platform.reporting import Reporter
from llm_platform.settings import Settings
from llm_platform.specs import CONFIGS, AgentClass, AgentConfig
from llm_platform.specs.results import NodeResult
from llm_platform.storage import Storage, storage_from


@dataclass(frozen=True)
class Platform:
    """The services that work on a run needs."""

    settings: Settings
    database: Database
    storage: Storage

    @classmethod
    def from_settings(cls, settings: Settings, storage: Storage | None = None) -> Platform:
        return cls(settings, Database.from_settings(settings), storage or storage_from(settings))

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.settings.resolved_mlflow_url)

    def close(self) -> None:
        self.database.close()


@dataclass
class Node:
    """One node of one run. `peers` is how many nodes of its class the pipeline has."""

    run_id: str
    agent_name: str
    agent_class: AgentClass
    config: AgentConfig
    inputs: tuple[str, ...]
    peers: int = 1
    partial: NodeResult | None = field(default=None, compare=False)
    """What is worth keeping even if the node fails, such as a validation report."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Node:
        agent_class = AgentClass(data["agent_class"])
        config = CONFIGS[agent_class].model_validate(data["config"])
        return cls(data["run_id"], data["agent_name"], agent_class, config, tuple(data["inputs"]), data["peers"])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, from which `from_dict` makes the same node in another process."""
        return {
            "run_id": self.run_id,
            "agent_name": self.agent_name,
            "agent_class": self.agent_class.value,
            "config": self.config.model_dump(mode="json"),
            "inputs": list(self.inputs),
            "peers": self.peers,
        }

    def digest(self, upstream: dict[str, Upstream]) -> str:
        """Changes with the config and with anything upstream."""
        return digest(self.agent_class.value, self.config.model_dump(mode="json"), {name: upstream[name].digest for name in self.inputs})

    @property
    def key(self) -> str:
        """Where in the artifacts bucket this node's results lie; the node's name is left out where it is the only one."""
        return self.run_id if self.peers == 1 else f"{self.run_id}/{self.agent_name}"

    def work(self, platform: Platform) -> Path:
        """The node's folder of unfinished work, kept over retries (checkpoints lie in it)."""
        path = platform.settings.work / self.run_id / self.agent_name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def scratch(self, platform: Platform) -> Iterator[Path]:
        """An empty folder that is gone afterwards. Its name ends in .tmp, by which leftovers of a killed process are known."""
        path = self.work(platform) / "scratch.tmp"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Upstream:
    """A finished node whose edge leads here."""

    agent_name: str
    agent_class: AgentClass
    digest: str
    result: NodeResult


def load_upstream(platform: Platform, node: Node) -> dict[str, Upstream]:
    """The finished nodes that `node` names as inputs. Raises InvalidConfig if one has no result."""
    found: dict[str, Upstream] = {}
    for name in node.inputs:
        row = platform.database.node(node.run_id, name)
        if row is None or row["status"] != "completed" or row["result"] is None:
            raise InvalidConfig(
                f"Node '{node.agent_name}' needs the result of '{name}', which has none", agent=node.agent_name, field="inputs"
            )
        found[name] = Upstream(name, AgentClass(row["agent_class"]), row["digest"], NodeResult.model_validate(row["result"]))
    return found


@dataclass(frozen=True)
class Work:
    """All that an agent's function is given."""

    platform: Platform
    node: Node
    upstream: dict[str, Upstream]
    reporter: Reporter

    def of(self, *classes: AgentClass) -> Sequence[Upstream]:
        """The inputs of these classes, in the order of the edges."""
        return [item for item in self.upstream.values() if item.agent_class in classes]
