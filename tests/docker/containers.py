"""Reads docker/ as a Docker engine would: what each image and each compose service runs, with which environment, and how it is probed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


@dataclass
class Image:
    """A stage of the Dockerfile, with what it inherits from those before it."""

    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    copied: list[str] = field(default_factory=list)
    """What is copied from the project."""


def images(dockerfile: Path) -> dict[str, Image]:
    """Every stage by its name. Raises ValueError for a command that is not a JSON list: a shell would hide signals from the service."""
    stages: dict[str, Image] = {}
    image = Image()
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for name, rest in re.findall(r"^([A-Z]+)\s+(.*)$", text, re.MULTILINE):
        if name == "FROM":
            base, stage = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            parent = stages.get(base, Image())
            image = Image(parent.entrypoint, parent.command, parent.healthcheck, dict(parent.environment), parent.user, parent.copied[:])
            stages[stage] = image
        elif name == "ENV":
            image.environment |= dict(part.split("=", 1) for part in shlex.split(rest))
        elif name == "USER":
            image.user = rest
        elif name == "ENTRYPOINT":
            image.entrypoint, image.command = json.loads(rest), []
        elif name == "CMD":
            image.command = json.loads(rest)
        elif name == "HEALTHCHECK":
            image.healthcheck = json.loads(rest[rest.index("CMD") + 3 :])
        elif name == "COPY" and "--from" not in rest:
            image.copied += [part for part in rest.split()[:-1] if not part.startswith("--")]
    return stages


@dataclass(frozen=True)
class Container:
    """A compose service of one of our images."""

    name: str
    user: str
    command: list[str]
    healthcheck: list[str]
    environment: Mapping[str, str]
    after: tuple[str, ...]
    """Services that must be healthy before it is started."""


def compose(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """The compose file with its variables filled in. Raises KeyError for one that is not given and has no default."""

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        return variables.get(name, default) if default is not None else variables[name]

    text = re.sub(r"\$\{(?P<name>\w+)(?::\?[^}]*|:-(?P<default>[^}]*))?\}", value, path.read_text())
    return yaml.safe_load(text)


def containers(content: Mapping[str, Any]) -> dict[str, Container]:
    """Our services of a compose file, in the order in which they can be started."""
    stages = images(DOCKER / "Dockerfile")
    found: dict[str, Container] = {}
    waiting = {name: service for name, service in content["services"].items() if "build" in service}
    ours = set(waiting)
    while waiting:
        name = next(name for name, service in waiting.items() if not (ours & set(service.get("depends_on", {}))) - set(found))
        service = waiting.pop(name)
        image = stages[service["build"]["target"]]
        entrypoint = service.get("entrypoint", image.entrypoint)
        command = service.get("command", [] if "entrypoint" in service else image.command)
        healthcheck = service.get("healthcheck", {})
        probe = [] if healthcheck.get("disable") else healthcheck.get("test", ["CMD", *image.healthcheck])[1:]
        found[name] = Container(
            name,
            image.user,
            [*entrypoint, *command],
            probe,
            image.environment | {key: str(value) for key, value in service.get("environment", {}).items()},
            tuple(service.get("depends_on", {})),
        )
    return found
