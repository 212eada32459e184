"""Kubernetes' API for jobs and pods, as far as Dagster uses it, over pods that are processes of this machine.

What a cluster's API server would refuse is refused (by Kubernetes' own schemas, and what those cannot say), a pod waits until there are
GPUs for it, has the environment that its containers are given and nothing else, ends by SIGTERM and after its grace period by SIGKILL,
and takes every process that it started with it. Images, networks and volumes are this machine's.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import psutil
import yaml

NAMESPACE = "default"
TOKEN = "token-of-the-service-account"
GPU = "nvidia.com/gpu"
LABEL = re.compile(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
Json = dict[str, Any]


class Refused(Exception):
    """What the API server answers instead, with its status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass
class Pod:
    """One that a job has made; `manifest` is what the API shows of it."""

    manifest: Json
    job: str
    log: Path
    process: subprocess.Popen[bytes] | None = None
    deleted: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return self.manifest["metadata"]["name"]

    @property
    def labels(self) -> dict[str, str]:
        return self.manifest["metadata"]["labels"]

    @property
    def container(self) -> Json:
        return self.manifest["spec"]["containers"][0]

    @property
    def gpus(self) -> int:
        return int(self.container.get("resources", {}).get("limits", {}).get(GPU, 0))

    def processes(self) -> list[psutil.Process]:
        """All that run in it, wherever they went: their environment has its name."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("HOSTNAME") == self.name:
                    found.append(process)
        return found

    def kill(self) -> None:
        """At once, as when its machine fails."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()


class Cluster:
    """`maps` and `secrets` are what pods may take their environment from, `claims` the volumes that there are."""

    def __init__(self, folder: Path, *, gpus: int, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)
        """Of the images."""
        self.maps: dict[str, Mapping[str, str]] = {}
        self.secrets: dict[str, Mapping[str, str]] = {}
        self.claims: set[str] = set()
        self.translate: Callable[[str], str] = str
        """From the cluster's paths and addresses to this machine's."""
        self.jobs: dict[str, Json] = {}
        self.pods: dict[str, Pod] = {}
        self.history: list[Pod] = []
        """Every pod that ever was, in the order of their jobs."""
        self.refused: list[str] = []
        self._free = gpus
        self._changed = threading.Condition()

    def running(self) -> list[str]:
        """The names of the pods that have not ended."""
        return [pod.name for pod in self.history if not pod.ended.is_set()]

    # What clients ask

    def create_job(self, body: Json) -> Json:
        body = {"apiVersion": "batch/v1", "kind": "Job", **body}
        self._check(body)
        name = body["metadata"]["name"]
        with self._changed:
            if name in self.jobs:
                raise Refused(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
            body["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": NAMESPACE, "creationTimestamp": _now()}
            body["status"] = {"active": 1, "startTime": _now()}
            self.jobs[name] = body
            template = body["spec"]["template"]
            metadata = {
                "name": f"{name}-{uuid.uuid4().hex[:5]}",
                "namespace": NAMESPACE,
                "uid": str(uuid.uuid4()),
                "labels": {**template["metadata"].get("labels", {}), "job-name": name},
            }
            manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}}
            pod = Pod(manifest, name, self.folder / f"{metadata['name']}.log")
            self.pods[pod.name] = pod
            self.history.append(pod)
        threading.Thread(target=self._run, args=(pod,), name=pod.name, daemon=True).start()
        return body

    def delete_job(self, name: str) -> Json:
        """Its pods stay, as where a client of batch/v1 says nothing of them."""
        with self._changed:
            return self.jobs.pop(name)

    def delete_pod(self, name: str) -> Json:
        pod = self.pods[name]
        with self._changed:
            already, pod.deleted = pod.deleted, True
            pod.manifest["metadata"].setdefault("deletionTimestamp", _now())
            self._changed.notify_all()
        if not already:
            threading.Thread(target=self._end, args=(pod,), daemon=True).start()
        return pod.manifest

    # What the cluster does by itself

    def _run(self, pod: Pod) -> None:
        with self._changed:
            self._changed.wait_for(lambda: pod.deleted or self._free >= pod.gpus)
            if not pod.deleted:
                self._free -= pod.gpus
                pod.process = self._start(pod)
                pod.manifest["status"] = {"phase": "Running", **self._state(pod, {"running": {"startedAt": _now()}})}
        code = pod.process.wait() if pod.process else 1
        while pod.processes():
            pod.kill()
        with self._changed:
            if pod.process:
                self._free += pod.gpus
            ended = {"terminated": {"exitCode": code % 256, "reason": "Completed" if code == 0 else "Error"}}
            pod.manifest["status"] = {"phase": "Succeeded" if code == 0 else "Failed", **self._state(pod, ended)}
            if job := self.jobs.get(pod.job):
                job["status"] = {"startTime": job["status"]["startTime"], "succeeded" if code == 0 else "failed": 1}
            if pod.deleted:
                del self.pods[pod.name]
            self._changed.notify_all()
        pod.ended.set()

    def _start(self, pod: Pod) -> subprocess.Popen[bytes]:
        given: dict[str, str] = {}
        for source in pod.container.get("envFrom", []):
            kind, reference = next(iter(source.items()))
            given.update((self.maps if kind == "configMapRef" else self.secrets)[reference["name"]])
        for item in pod.container.get("env", []):
            reference = item.get("valueFrom", {}).get("secretKeyRef")
            given[item["name"]] = self.secrets[reference["name"]][reference["key"]] if reference else item.get("value", "")
        given = {name: self.translate(value) for name, value in given.items()}
        command = [self.translate(part) for part in [*pod.container.get("command", []), *pod.container.get("args", [])]]
        place = self.folder / pod.name
        place.mkdir()
        environment = {**self.environment, **given, "HOSTNAME": pod.name, "HOME": str(place)}
        with pod.log.open("wb") as log:
            return subprocess.Popen(
                command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _end(self, pod: Pod) -> None:
        if pod.process:
            with suppress(ProcessLookupError):
                pod.process.send_signal(signal.SIGTERM)
        if not pod.ended.wait(pod.manifest["spec"].get("terminationGracePeriodSeconds", 30)):
            pod.kill()

    def _state(self, pod: Pod, state: Json) -> Json:
        status = {"name": pod.container["name"], "state": state, "ready": "running" in state, "restartCount": 0}
        return {"containerStatuses": [{**status, "image": pod.container["image"], "imageID": ""}]}

    def _check(self, job: Json) -> None:
        """Raises Refused."""
        wrong: list[str] = []
        try:
            kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            wrong.append(f"{'.'.join(map(str, error.path))}: {error.message}")
        template = job["spec"]["template"]
        labels = [*job["metadata"].get("labels", {}).values(), *template["metadata"].get("labels", {}).values()]
        wrong += [f"metadata.labels: '{value}'" for value in labels if not LABEL.fullmatch(value)]
        wrong += [f"metadata.name: '{name}'" for name in [job["metadata"]["name"]] if not NAME.fullmatch(name)]
        volumes = [volume["name"] for volume in template["spec"].get("volumes", [])]
        (container,) = template["spec"]["containers"]
        mounts = container.get("volumeMounts", [])
        paths = [mount["mountPath"] for mount in mounts]
        wrong += [f"volumes: {names} are not different" for names in (volumes, paths) if len(set(names)) < len(names)]
        wrong += [f"volumeMounts: no volume '{mount['name']}'" for mount in mounts if mount["name"] not in volumes]
        for volume in template["spec"].get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            wrong += [f"volumes: no claim '{claim}'"] if claim and claim not in self.claims else []
        for source in container.get("envFrom", []):
            kind, reference = next(iter(source.items()))
            if reference["name"] not in (self.maps if kind == "configMapRef" else self.secrets):
                wrong.append(f"envFrom: no {kind} '{reference['name']}'")
        if wrong:
            raise Refused(422, "Invalid", "; ".join(wrong))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests show what is refused."""

    def _answer(self, code: int, body: Json | str) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "no token of a service account")
            self._answer(200, self._result(json.loads(body) if body else {}))
        except Refused as error:
            self.cluster.refused.append(f"{self.command} {self.path}: {error}")
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
            self._answer(error.code, {**status, "reason": error.reason, "message": str(error), "code": error.code})
        except KeyError as error:
            self._answer(404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "message": f"{error} not found", "code": 404})

    do_GET = do_POST = do_DELETE = _do

    def _result(self, body: Json) -> Json | str:
        """Raises KeyError for what is not there."""
        cluster, address = self.cluster, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        match self.command, address.path.removeprefix("/apis/batch/v1").removeprefix("/api/v1").strip("/").split("/"):
            case "POST", ["namespaces", _, "jobs"]:
                return cluster.create_job(body)
            case "GET", ["namespaces", _, "jobs"]:
                return {"items": [job for job in list(cluster.jobs.values()) if _selected(job, query)]}
            case "GET", ["namespaces", _, "jobs", name, "status"]:
                return cluster.jobs[name]
            case "DELETE", ["namespaces", _, "jobs", name]:
                return cluster.delete_job(name)
            case "GET", ["namespaces", _, "pods"]:
                return {"items": [pod.manifest for pod in list(cluster.pods.values()) if _selected(pod.manifest, query)]}
            case "GET", ["namespaces", _, "pods", name]:
                return cluster.pods[name].manifest
            case "DELETE", ["namespaces", _, "pods", name]:
                return cluster.delete_pod(name)
            case "GET", ["namespaces", _, "pods", name, "log"]:
                return "".join(cluster.pods[name].log.read_text().splitlines(keepends=True)[-int(query.get("tailLines", "1000")) :])
            case "GET", ["namespaces", _, "events"]:
                return {"items": []}
        raise Refused(403, "Forbidden", "the chart's role does not have this")


def _selected(item: Json, query: Mapping[str, str]) -> bool:
    wanted = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
    named = query.get("fieldSelector", "").removeprefix("metadata.name=")
    metadata = item["metadata"]
    return (not named or metadata["name"] == named) and wanted.items() <= metadata.get("labels", {}).items()


@contextmanager
def kubernetes(folder: Path, *, gpus: int, environment: Mapping[str, str]) -> Iterator[tuple[Cluster, Path]]:
    """A cluster and the path of a kubeconfig to reach it with. No pod is left behind the block."""
    folder.mkdir()
    cluster = Cluster(folder, gpus=gpus, environment={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}", **environment})
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
            "users": [{"name": "dagster", "user": {"token": TOKEN}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "dagster", "namespace": NAMESPACE}}],
            "current-context": "here",
        }
        path = folder / "kubeconfig.yaml"
        path.write_text(yaml.safe_dump(config))
        path.chmod(0o600)
        try:
            yield cluster, path
        finally:
            server.shutdown()
            for pod in list(cluster.pods.values()):
                pod.kill()
