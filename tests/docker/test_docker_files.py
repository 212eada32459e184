"""The container files, checked by the tools that need no Docker engine, and by what a careful operator would look for in them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dagster._config import process_config
from dagster_k8s import K8sRunLauncher

from llm_platform.settings import Settings
from llm_platform.supervisor.dagster_files import LOCATION
from tests.docker.containers import DOCKER, ROOT, compose, containers, images
from tests.docker.helm_chart import instance, manifests, values

VARIABLES = {"POSTGRES_PASSWORD": "secret-of-postgres", "S3_SECRET_KEY": "secret-of-s3"}
DOCKERFILES = sorted(DOCKER.glob("**/Dockerfile*"))
COMPOSE = sorted(DOCKER.glob("compose*.yaml"))
BASES = {"packages", "machine", "service", "trainer", "dagster"}
"""Stages that others are built on; and `dagster`, whose commands are those of Dagster's chart."""


def tool(name: str, *arguments: str | Path) -> None:
    done = subprocess.run([Path(sys.executable).with_name(name), *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    tool("hadolint", path)


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_follow_the_specification(path: Path) -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_every_image_runs_without_rights_and_says_how_it_is() -> None:
    stages = images(DOCKER / "Dockerfile")
    served = {name: image for name, image in stages.items() if name not in BASES}
    assert served.keys() == {*("api", "dagster-webserver", "dagster-daemon", "dagster-code", "dagster-workers", "mlflow", "embedded")}
    for name, image in served.items():
        assert image.user == "1000:1000", name
        assert image.entrypoint and image.healthcheck, name
        assert image.environment["LLM_PLATFORM_AUTHENTICATION"] == "true", name


def test_what_is_copied_exists_and_packages_are_pinned() -> None:
    stages = images(DOCKER / "Dockerfile")
    copied = {name for image in stages.values() for name in image.copied}
    assert {"constraints.txt", "api", "notebooks"} <= copied
    assert all((ROOT / name).exists() for name in copied), copied
    assert "pip install -c constraints.txt" in (DOCKER / "Dockerfile").read_text()


def test_a_file_for_each_profile_names_images_that_there_are() -> None:
    stages = images(DOCKER / "Dockerfile")
    for path in (DOCKER / "compose.yaml", DOCKER / "compose.embedded.yaml"):
        for service in ours(compose(path, VARIABLES)).values():
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
            assert service["build"]["target"] in stages
    assert set(compose(DOCKER / "compose.gpu.yaml", {})["services"]) == {"dagster-code", "dagster-workers"}


@pytest.mark.parametrize("name", ["compose.yaml", "compose.embedded.yaml"])
def test_ports_are_published_on_this_machine_only(name: str) -> None:
    services = compose(DOCKER / name, VARIABLES)["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published and all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.embedded.yaml"])
def test_our_containers_can_gain_no_rights(name: str) -> None:
    for service in ours(compose(DOCKER / name, VARIABLES)).values():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged") and not any("docker.sock" in volume for volume in service.get("volumes", []))


def test_stores_are_reached_by_the_services_alone() -> None:
    content = compose(DOCKER / "compose.yaml", VARIABLES)
    assert content["networks"]["data"] == {"internal": True}
    for name in ("postgres", "redis", "minio"):
        assert content["services"][name]["networks"] == ["data"] and "ports" not in content["services"][name]


def test_secrets_are_asked_for_and_on_no_command_line() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    assert all(value.startswith("${") for value in re.findall(r"^ +\w*(?:PASSWORD|SECRET_KEY): *(.*)$", text, re.MULTILINE))
    with pytest.raises(KeyError):
        compose(DOCKER / "compose.yaml", {})
    content = compose(DOCKER / "compose.yaml", VARIABLES)
    for container in containers(content).values():
        assert not any(secret in part for secret in VARIABLES.values() for part in [*container.command, *container.healthcheck])
    for service in content["services"].values():
        assert not any(secret in str(service.get(key)) for secret in VARIABLES.values() for key in ("command", "entrypoint", "healthcheck"))


def test_dagster_and_mlflow_have_a_database_each_which_the_first_start_makes() -> None:
    content = compose(DOCKER / "compose.yaml", VARIABLES)
    made = set(re.findall(r"CREATE DATABASE (\w+);", content["configs"]["databases"]["content"]))
    made.add(content["services"]["postgres"]["environment"]["POSTGRES_DB"])
    environment = content["services"]["api"]["environment"]
    wanted = [url.rsplit("/", 1)[1] for url in environment.values() if url.startswith("postgresql")]
    assert sorted(wanted) == sorted(made) and len(made) == 3


def test_mlflow_knows_the_name_by_which_it_is_called() -> None:
    for hosts, url in (
        (environment["MLFLOW_SERVER_ALLOWED_HOSTS"], environment["LLM_PLATFORM_MLFLOW_URL"]) for environment in mlflow_environments()
    ):
        assert url.removeprefix("http://") in hosts.split(",")


def mlflow_environments() -> list[dict[str, str]]:
    """As compose gives it, and as Kubernetes does."""
    shared = next(item["data"] for item in manifests() if item["metadata"]["name"] == "llm-platform-settings")
    pod = next(item for item in manifests() if item["kind"] == "Deployment" and item["metadata"]["name"] == "llm-platform-mlflow")
    own = {item["name"]: item["value"] for item in pod["spec"]["template"]["spec"]["containers"][0]["env"]}
    return [compose(DOCKER / "compose.yaml", VARIABLES)["services"]["mlflow"]["environment"], shared | own]


def ours(content: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in content["services"].items() if "build" in service}


MANIFESTS = DOCKER / "k8s" / "platform.yaml"


def test_kubernetes_manifests_are_valid() -> None:
    tool("kubernetes-validate", "--strict", MANIFESTS)


def test_pods_run_the_commands_of_our_images_without_rights() -> None:
    stages = images(DOCKER / "Dockerfile")
    pods = [item["spec"]["template"]["spec"] for item in manifests() if item["kind"] == "Deployment"]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        image = stages[container["image"].rsplit("/", 1)[1].partition(":")[0].removeprefix("llm-platform-")]
        assert "command" not in container and "args" not in container, "else these tests would run other commands than the cluster"
        (port,) = container["ports"]
        assert image.command[-1] == str(port["containerPort"])
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"livenessProbe", "readinessProbe", "startupProbe", "resources"} <= container.keys()


def test_what_pods_refer_to_is_made_here_or_by_the_chart() -> None:
    made = {(item["kind"], item["metadata"]["name"]) for item in manifests()}
    chart = {("ConfigMap", f"dagster-{name}") for name in ("webserver-env", "instance", "workspace-yaml")}
    text = MANIFESTS.read_text()
    wanted = {("ConfigMap", name) for name in re.findall(r"(?:configMapRef|configMap): \{name: ([\w-]+)\}", text)}
    wanted |= {("PersistentVolumeClaim", name) for name in re.findall(r"claimName: ([\w-]+)", text)}
    assert wanted <= made | chart and len(wanted) >= 4
    assert set(re.findall(r"secretKeyRef: \{name: ([\w-]+)|secretRef: \{name: ([\w-]+)\}", text)) == {
        ("llm-platform", ""),
        ("", "llm-platform"),
    }


def test_the_charts_runs_get_what_the_launcher_understands() -> None:
    """Dagster's own reader of what a run's pod is made of, and of the instance's settings, as the chart writes them."""
    config = instance()["run_launcher"]["config"]
    read = process_config(K8sRunLauncher.config_type(), config)
    assert read.success, read.errors
    assert "nvidia.com/gpu" not in str(config), "the steps ask for GPUs, each for its own"
    settings = next(item["data"] for item in manifests() if item["metadata"]["name"] == "llm-platform-settings")
    assert settings["LLM_PLATFORM_EXECUTOR"] == "k8s"


def test_dagster_and_the_api_mean_the_same_code_location_and_release() -> None:
    content = values()
    (server,) = content["dagsterWebserver"]["workspace"]["servers"]
    (deployment,) = content["dagster-user-deployments"]["deployments"]
    assert server == {"host": deployment["name"], "port": deployment["port"], "name": LOCATION}
    assert deployment["dagsterApiGrpcArgs"][-2:] == ["--location-name", LOCATION]
    settings = next(item["data"] for item in manifests() if item["metadata"]["name"] == "llm-platform-settings")
    logs = content["computeLogManager"]["config"]["s3ComputeLogManager"]
    assert settings["LLM_PLATFORM_COMPUTE_LOGS_BUCKET"] == logs["bucket"] and settings["LLM_PLATFORM_S3_ENDPOINT"] == logs["endpointUrl"]
    used = {content[part]["image"]["repository"] for part in ("dagsterWebserver", "dagsterDaemon")} | {deployment["image"]["repository"]}
    image = images(DOCKER / "Dockerfile")["dagster"]
    assert {name.rsplit("/", 1)[1] for name in used} == {"llm-platform-dagster"}
    assert not image.entrypoint and image.user == "1000:1000", "the chart and its launcher give commands as arguments"


def test_every_setting_that_is_given_is_one() -> None:
    known = {f"LLM_PLATFORM_{name.upper()}" for name in Settings.model_fields}
    given = set(re.findall(r"\bLLM_PLATFORM_[A-Z0-9_]+", "".join(path.read_text() for path in DOCKER.rglob("*") if path.is_file())))
    assert given <= known, given - known


def test_the_embedded_image_starts_the_platform_that_the_other_tests_start() -> None:
    image = images(DOCKER / "Dockerfile")["embedded"]
    program, *arguments = image.entrypoint
    tool(program, *arguments, *image.command, "--help")
    assert image.healthcheck == images(DOCKER / "Dockerfile")["api"].healthcheck
