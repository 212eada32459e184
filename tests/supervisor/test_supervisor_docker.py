"""The container files, as far as they can be tested without a Docker engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ")


def instruction(name: str) -> str:
    """The arguments of the last instruction of this name, which is the one that counts."""
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)[-1]


def test_the_entry_point_is_a_command_that_exists() -> None:
    program, *arguments = json.loads(instruction("ENTRYPOINT"))
    command = [str(Path(sys.executable).with_name(program)), *arguments, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Run the platform" in done.stdout


def test_the_container_lets_nobody_in_without_a_key() -> None:
    assert "LLM_PLATFORM_AUTHENTICATION=true" in instruction("ENV").split()


def test_the_container_runs_without_rights_and_says_how_it_is() -> None:
    assert instruction("USER") not in {"root", "0"}
    check = instruction("HEALTHCHECK")
    probe = json.loads(check[check.index("CMD") + 3 :])
    assert "/health" in probe[-1]
    compile(probe[-1], "HEALTHCHECK", "exec")


def test_what_is_copied_exists() -> None:
    for sources in re.findall(r"^COPY (?!--from)(?:--\S+ )*(.*)$", DOCKERFILE, re.MULTILINE):
        *names, _target = sources.split()
        assert names and all((ROOT / name).exists() for name in names), sources


def test_compose_publishes_on_this_machine_only() -> None:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    (service,) = compose["services"].values()
    assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert {volume.split(":")[0] for volume in service["volumes"]} == set(compose["volumes"])
