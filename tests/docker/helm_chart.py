"""What Dagster's Helm chart makes of docker/k8s/dagster-values.yaml, as far as runs depend on it: its templates, in Python.

Helm and the chart cannot be installed by pip. The names and keys are those of the templates `configmap-instance`, `configmap-workspace`,
`configmap-env-*`, `deployment-daemon` and of the subchart's `deployment-user`, for a release called `dagster` in the namespace `default`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.docker.containers import DOCKER

Json = dict[str, Any]
RELEASE = "dagster"
NAMESPACE = "default"


def values() -> Json:
    return yaml.safe_load((DOCKER / "k8s" / "dagster-values.yaml").read_text())


def manifests() -> list[Json]:
    """Of docker/k8s/platform.yaml."""
    return list(yaml.safe_load_all((DOCKER / "k8s" / "platform.yaml").read_text()))


def config_maps() -> dict[str, dict[str, str]]:
    """By their names: ours, and those of the chart."""
    chart, content = values(), {item["metadata"]["name"]: item["data"] for item in manifests() if item["kind"] == "ConfigMap"}
    (deployment,) = chart["dagster-user-deployments"]["deployments"]
    shared = {
        "DAGSTER_HOME": chart["global"]["dagsterHome"],
        "DAGSTER_K8S_PIPELINE_RUN_NAMESPACE": NAMESPACE,
        "DAGSTER_K8S_PIPELINE_RUN_ENV_CONFIGMAP": f"{RELEASE}-pipeline-env",
    }
    return content | {
        f"{RELEASE}-instance": {"dagster.yaml": yaml.safe_dump(instance())},
        f"{RELEASE}-workspace-yaml": {"workspace.yaml": yaml.safe_dump(workspace())},
        f"{RELEASE}-webserver-env": shared,
        f"{RELEASE}-daemon-env": shared,
        f"{RELEASE}-pipeline-env": shared,
        f"{RELEASE}-user-deployments-shared-env": shared,
        f"{RELEASE}-{deployment['name']}-user-env": {},
    }


def workspace() -> Json:
    servers = values()["dagsterWebserver"]["workspace"]["servers"]
    return {"load_from": [{"grpc_server": {"host": one["host"], "port": one["port"], "location_name": one["name"]}} for one in servers]}


def instance() -> Json:
    """dagster.yaml."""
    chart = values()
    launcher, daemon = chart["runLauncher"]["config"]["k8sRunLauncher"], chart["dagsterDaemon"]
    queue, monitoring = daemon["runCoordinator"]["config"]["queuedRunCoordinator"], daemon["runMonitoring"]
    logs = chart["computeLogManager"]["config"]["s3ComputeLogManager"]
    database = chart["postgresql"]
    postgres = {
        "postgres_db": {
            "username": database["postgresqlUsername"],
            "password": {"env": "DAGSTER_PG_PASSWORD"},
            "hostname": database["postgresqlHost"],
            "db_name": database["postgresqlDatabase"],
            "port": database["service"]["port"],
            "params": database.get("postgresqlParams", {}),
            **({"scheme": database["postgresqlScheme"]} if database.get("postgresqlScheme") else {}),
        }
    }
    return {
        "scheduler": {"module": "dagster.core.scheduler", "class": "DagsterDaemonScheduler"},
        "schedule_storage": {"module": "dagster_postgres.schedule_storage", "class": "PostgresScheduleStorage", "config": postgres},
        "run_storage": {"module": "dagster_postgres.run_storage", "class": "PostgresRunStorage", "config": postgres},
        "event_log_storage": {"module": "dagster_postgres.event_log", "class": "PostgresEventLogStorage", "config": postgres},
        "run_launcher": {
            "module": "dagster_k8s",
            "class": "K8sRunLauncher",
            "config": {
                "load_incluster_config": launcher["loadInclusterConfig"],
                "job_namespace": NAMESPACE,
                "image_pull_policy": launcher["imagePullPolicy"],
                "service_account_name": chart["serviceAccount"]["name"],
                "dagster_home": chart["global"]["dagsterHome"],
                "instance_config_map": f"{RELEASE}-instance",
                "postgres_password_secret": chart["global"]["postgresqlSecretName"],
                "env_config_maps": _names(launcher["envConfigMaps"]),
                "env_secrets": _names(launcher["envSecrets"]),
                "volume_mounts": launcher["volumeMounts"],
                "volumes": launcher["volumes"],
                "run_k8s_config": _snake_case(launcher["runK8sConfig"]),
            },
        },
        "run_coordinator": {
            "module": "dagster._core.run_coordinator",
            "class": "QueuedRunCoordinator",
            "config": _snake_case(queue),
        },
        "compute_logs": {
            "module": "dagster_aws.s3.compute_log_manager",
            "class": "S3ComputeLogManager",
            "config": _snake_case(logs),
        },
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "poll_interval_seconds": monitoring["pollIntervalSeconds"],
        },
        "telemetry": chart["telemetry"],
    }


def code_server() -> tuple[list[str], dict[str, str], list[str]]:
    """Its command, what the chart adds to its environment, and the ConfigMaps that the rest of it comes from."""
    (deployment,) = values()["dagster-user-deployments"]["deployments"]
    image = f"{deployment['image']['repository']}:{deployment['image']['tag']}"
    maps = [f"{RELEASE}-{deployment['name']}-user-env", *_names(deployment["envConfigMaps"])]
    context = {
        "image_pull_policy": deployment["image"]["pullPolicy"],
        "env_config_maps": maps,
        "env_secrets": _names(deployment["envSecrets"]),
        "volume_mounts": deployment["volumeMounts"],
        "volumes": deployment["volumes"],
        "namespace": NAMESPACE,
        "service_account_name": f"{RELEASE}-user-deployments",
    }
    command = ["dagster", "api", "grpc", "-h", "0.0.0.0", "-p", str(deployment["port"]), *deployment["dagsterApiGrpcArgs"]]
    added = {"DAGSTER_CURRENT_IMAGE": image, "DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT": json.dumps({"k8s": context})}
    return command, added, [f"{RELEASE}-user-deployments-shared-env", *maps]


def daemon() -> tuple[list[str], list[str]]:
    """Its command, and the ConfigMaps that its environment comes from."""
    return ["dagster-daemon", "run", "-w", "/dagster-workspace/workspace.yaml"], [f"{RELEASE}-daemon-env"]


def _names(sources: list[Json]) -> list[str]:
    return [source["name"] for source in sources]


def _snake_case(config: Json) -> Json:
    """The chart's keys as Dagster's: only the first level of them is the chart's."""
    return {re.sub("([A-Z])", lambda match: "_" + match[1].lower(), key): value for key, value in config.items()}
