"""Runs a heavy node on a Ray cluster: its processes are placed there, with the GPUs that it asks for, and watched from here.

    run worker ──one actor per process──> ray_host.Host ──> keeper ──> worker, as on one machine

A training on several devices has a process for each, which Ray packs on as few machines as have room; they meet at rank 0's address.
All machines see the platform's home folder, so that a training whose machine is lost goes on from its checkpoint on another one: a
lost machine is an error that can pass, and the node is tried again as often as the pipeline's `max_retries` says. Log lines go to
the platform's database, what Dagster shows through a file in the home folder. When the run worker dies, its actors do, too.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
from dagster._utils.interrupts import capture_interrupts

from dagster_project import worker
from dagster_project.executors import devices
from dagster_project.keeper import TERM_SECONDS
from dagster_project.pipes import outcome, sweep
from llm_platform import runlog
from llm_platform.agents import Node, Platform
from llm_platform.data.ray_cluster import connected  # before Ray: it sets what Ray reads when it is imported
from llm_platform.errors import InvalidConfig, PlatformError, ServiceUnavailable
from llm_platform.settings import Settings
from llm_platform.specs.results import NodeResult
from llm_platform.training.devices import RANKS

# isort: split
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dagster_project.ray_host import Host

PASSED = ("AWS_", "DAGSTER_PIPES_", "HF_", "LLM_PLATFORM_", "MLFLOW_")
"""How the names of variables begin that a process has from here; all others are those of its machine."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
LOOK_SECONDS = 0.25
SOON_SECONDS = 3.0
"""After this long without a place in the cluster the job's log says that it waits."""


def run_on_ray(context: dg.OpExecutionContext, platform: Platform, node: Node) -> NodeResult:
    """The node's result. Raises what the node raised; what the cluster lost is ServiceUnavailable, which may be retried."""
    try:
        with connected(platform.settings.ray_address), _folder(platform, node) as folder:
            code = _run(context, platform, node, folder)
    except PlatformError as error:
        _tell(platform, node, "ERROR", error.message)
        platform.database.end_node(node.run_id, node.agent_name, "failed", error=error.body())
        raise
    return outcome(platform, node, code)


def _tell(platform: Platform, node: Node, level: str, message: str) -> None:
    """A line in the run's log, of the node: its own process is not there to say it."""
    line = runlog.line(level, message, agent=node.agent_class.value, agent_name=node.agent_name)
    runlog.append(platform.database, node.run_id, [line])


@contextmanager
def _folder(platform: Platform, node: Node) -> Iterator[Path]:
    """A folder in the home, which all machines see, for what passes between the processes of a node and here."""
    path = node.work(platform).with_name(f"{node.agent_name}.tmp")
    shutil.rmtree(path, ignore_errors=True)  # of an attempt that was killed
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _run(context: dg.OpExecutionContext, platform: Platform, node: Node, folder: Path) -> int:
    reader = dg.PipesFileMessageReader(str(folder / "messages"))
    output = folder / "output"
    output.touch()
    with (
        _hosts(platform, node) as hosts,
        dg.open_pipes_session(
            context=context, context_injector=dg.PipesEnvContextInjector(), message_reader=reader, extras={"node": node.to_dict()}
        ) as session,
        output.open("rb") as printed,
    ):
        addresses = _finish([host.address.remote() for host in hosts])
        check_reach(platform.settings, [machine for machine, _ in addresses])
        env = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
        env |= {**session.get_bootstrap_env_vars(), "LLM_PLATFORM_HOME": str(platform.settings.root)}
        running = [
            host.run.remote(worker.COMMAND[1:], env | _rank(rank, addresses, folder), str(output)) for rank, host in enumerate(hosts)
        ]
        try:
            return _first(running, printed.fileno())
        finally:
            with capture_interrupts():  # a second request to stop must not cut the cleaning up short
                _stop(hosts, running)
                _pass_on(printed.fileno())
                sweep(platform, node)


def _rank(rank: int, addresses: Sequence[tuple[str, int]], folder: Path) -> dict[str, str]:
    """The variables by which the processes of a training find each other; none where there is only one."""
    if len(addresses) == 1:
        return {}
    machine, port = addresses[0]
    return {RANKS: str(folder), "RANK": str(rank), "WORLD_SIZE": str(len(addresses)), "MASTER_ADDR": machine, "MASTER_PORT": str(port)}


@contextmanager
def _hosts(platform: Platform, node: Node) -> Iterator[list[Any]]:
    """Actors that have CPUs and GPUs of the cluster, one per process, as soon as there is room for all of them."""
    settings, count = platform.settings, devices(node)
    gpus = settings.cluster_gpus if settings.cluster_gpus is not None else ray.cluster_resources().get("GPU", 0) > 0
    needs: dict[str, float] = {"CPU": max(1, settings.threads)}
    if gpus:
        needs["GPU"] = 1 if count > 1 else 1 / settings.nodes_per_gpu
    group = placement_group([needs] * count, strategy="PACK")
    hosts: list[Any] = []
    try:
        _wait_for_room(platform, node, group, needs)
        for index in range(count):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
            options: dict[str, Any] = {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0), "max_concurrency": 2}
            hosts.append(ray.remote(Host).options(scheduling_strategy=place, **options).remote())
        yield hosts
    finally:
        with capture_interrupts(), suppress(RayError):
            for host in hosts:
                ray.kill(host)
            remove_placement_group(group)


def _wait_for_room(platform: Platform, node: Node, group: PlacementGroup, needs: dict[str, float]) -> None:
    since, told = time.monotonic(), False
    while not group.wait(LOOK_SECONDS):
        if not told and time.monotonic() - since > SOON_SECONDS:
            what = " and ".join(f"{amount:g} {name}" for name, amount in needs.items())
            _tell(platform, node, "INFO", f"Waiting for room in the Ray cluster: {group.bundle_count} x {what}")
            told = True


def check_reach(settings: Settings, machines: Sequence[str]) -> None:
    """Raises InvalidConfig where a process is on another machine, and what it must write to is a file or a port of this one alone."""
    if set(machines) <= {ray.util.get_node_ip_address()}:
        return
    urls = {"LLM_PLATFORM_DATABASE_URL": settings.resolved_database_url, "LLM_PLATFORM_MLFLOW_URL": settings.resolved_mlflow_url}
    here = [name for name, url in urls.items() if url.startswith("sqlite") or urlsplit(url).hostname in LOOPBACK]
    if here:
        raise InvalidConfig(f"With several machines in the Ray cluster, all of them must reach what {' and '.join(here)} name: set them")


def _first(running: Sequence[Any], printed: int) -> int:
    """The exit code of rank 0, or that of one beside it that failed. Raises ServiceUnavailable if one is lost."""
    waiting = list(running)
    while True:
        ended, waiting = ray.wait(waiting, timeout=LOOK_SECONDS)
        _pass_on(printed)
        for ref in ended:
            (code,) = _finish([ref])
            if code is None:
                raise InvalidConfig(
                    "A machine of the Ray cluster does not see the platform's home folder, which must be on storage that all of them "
                    "mount under the same path"
                )
            if ref == running[0]:
                return code
            if code < 0:
                raise ServiceUnavailable("A process of this training was killed; the run can go on from its last checkpoint")


def _finish(refs: list[Any]) -> list[Any]:
    """What actors answer. Raises ServiceUnavailable if one is lost."""
    while len(ray.wait(refs, num_returns=len(refs), timeout=LOOK_SECONDS)[0]) < len(refs):
        continue
    try:
        return ray.get(refs)
    except RayTaskError:  # a fault in our code, with the actor's traceback
        raise
    except RayError as error:
        raise ServiceUnavailable(f"A machine of the Ray cluster was lost ({type(error).__name__})") from error


def _stop(hosts: Sequence[Any], running: list[Any]) -> None:
    """Ends the processes; what does not end in time is killed with its actor."""
    with suppress(RayError):
        for host in hosts:
            host.stop.remote()
        ray.wait(running, num_returns=len(running), timeout=TERM_SECONDS + 2)


def _pass_on(printed: int) -> None:
    """Hands what the processes have printed to Dagster's log of what this process prints."""
    while data := os.read(printed, 2**16):
        os.write(2, data)
