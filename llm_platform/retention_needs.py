"""Which stored files somebody still needs: registered models, and jobs that go on or are not yet old."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime

import sqlalchemy as sa

from llm_platform.database import FINAL, Database
from llm_platform.registry import Registry
from llm_platform.specs import AgentClass
from llm_platform.tables import nodes, submissions

_ADDRESS = re.compile(r's3://[^"\\\s]+')
REUSING = (AgentClass.DATASET, AgentClass.VALIDATION, AgentClass.PREPROCESSING, AgentClass.EVALUATION)
"""Agents that look for a result of the same content before they compute it."""


class Needs:
    """As it was when this was made; `unsettled` asks anew."""

    def __init__(self, database: Database, registry: Registry, cutoff: datetime) -> None:
        self._database = database
        self._old = sa.and_(submissions.c.status.in_(FINAL), submissions.c.ended_at < cutoff)
        # Everything a model's lineage, card and evaluation name.
        self.addresses = {address for model in registry.all() for address in _ADDRESS.findall(model.model_dump_json())}
        # Of runs that are no jobs, too: somebody may look at them.
        recent = sa.select(nodes.c.result).outerjoin(submissions, submissions.c.run_id == nodes.c.run_id)
        recent = recent.where(nodes.c.result.is_not(None), sa.or_(submissions.c.run_id.is_(None), sa.not_(self._old)))
        with database.read() as connection:
            for result in connection.execute(recent).scalars():
                self.addresses.update(_ADDRESS.findall(json.dumps(result)))
        self._beginnings = {beginning for address in self.addresses for beginning in _beginnings(address)}

    def meets(self, address: str) -> bool:
        """Whether an address, something below it, or what it lies in is needed."""
        return address in self._beginnings or any(beginning in self.addresses for beginning in _beginnings(address))

    def unsettled(self) -> bool:
        """Whether a job goes on that may be about to use a shared result, though none of its nodes says so yet."""
        for row in self._database.open_submissions():
            if row["pipeline"] is None:
                return True
            planned = Counter(node["agent_class"] for node in row["pipeline"]["nodes"])
            done = Counter(
                node["agent_class"] for node in self._database.nodes([row["run_id"]])[row["run_id"]] if node["status"] == "completed"
            )
            if any(done[agent.value] < planned[agent.value] for agent in REUSING):
                return True
        return False

    def forget(self, address: str) -> None:
        """Nodes of old jobs lose a result that is about to go, so that a job which is tried again makes it again."""
        query = sa.select(nodes).join(submissions, submissions.c.run_id == nodes.c.run_id)
        named = sa.cast(nodes.c.result, sa.Text).contains(address, autoescape=True)
        with self._database.read() as connection:
            found = connection.execute(query.where(self._old, named)).mappings().all()
        for node in found:
            made = node["result"].get("artifacts", {})
            left = {kind: place for kind, place in made.items() if place != address and not place.startswith(f"{address}/")}
            if left != made:
                self._database.spoil_node(node["run_id"], node["agent_name"], node["result"] | {"artifacts": left})


def _beginnings(address: str) -> list[str]:
    """The address and the folders that it lies in, without the bucket."""
    parts = address.split("/")
    return ["/".join(parts[:end]) for end in range(4, len(parts) + 1)]
