"""The passes over the rows on a Ray cluster, with Ray Data.

Items and functions name files, and workers read these files themselves, so all nodes of the cluster see the platform's home
folder and the folders of base models under the same paths, and have the same version of the platform installed.
"""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa

from llm_platform.data.ray_cluster import connected  # before Ray: it sets what Ray reads when it is imported
from llm_platform.errors import InvalidConfig, ServiceUnavailable

# isort: split
import ray
from ray.data import ActorPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError, RayTaskError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

ONE_THREAD = {"POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1"}
"""There is one worker per CPU, so a worker's libraries use one thread each."""


class RayEngine:
    """Workers of a Ray cluster, one per CPU, each of which keeps the function that it runs.

    `address` is HOST:PORT of the cluster, of which this machine is a node; without it, each `map` has a cluster of this machine's
    CPUs that ends with it. If this process is connected to Ray already, that connection is used, and stays.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    def map(self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Iterator[ResultT]:
        """Results that wait to be taken are in Ray's object store, and workers pause when their share of it is full.

        An error of an item is raised in its turn, as it was raised there. Closing the iterator stops the workers. Raises
        InvalidConfig if the address is none or a worker does not see a file that it is to read, ServiceUnavailable if the cluster
        cannot be reached, or gets nowhere for half an hour.
        """
        if not items:
            return
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that there are no progress bars
        with connected(self._address), _lost_work_is_unavailable():
            cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
            size = min(cpus, len(items))
            rows = ray.data.from_items([{"item": pickle.dumps(item)} for item in items], override_num_blocks=len(items))
            rows.context.execution_options.preserve_order = True
            rows.context.enable_progress_bars = False
            outcomes = rows.map_batches(
                _Worker,
                fn_constructor_args=(function,),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(min_size=1, max_size=size, initial_size=size),
                num_cpus=1,
                runtime_env={"env_vars": ONE_THREAD},
            )
            stream = iter(outcomes.iter_batches(batch_size=None, batch_format="pyarrow"))
            with closing(cast("Generator[pa.Table]", stream)) as batches:
                for batch in batches:
                    for outcome in batch["outcome"]:
                        result, error = pickle.loads(outcome.as_buffer())
                        if error is not None:
                            raise error
                        yield result


class _Worker:
    """Lives in a process of the cluster. Errors are results, since Ray would raise its own in their place, and out of turn."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, batch: pa.Table) -> pa.Table:
        outcomes = [self._outcome(pickle.loads(item.as_buffer())) for item in batch["item"]]
        return pa.table({"outcome": pa.array(outcomes, pa.large_binary())})

    def _outcome(self, item: Any) -> bytes:
        try:
            _check_files(self._function)
            _check_files(item)
            return pickle.dumps((self._function(item), None), protocol=5)
        except Exception as error:
            error.add_note(f"In a Ray worker:\n{traceback.format_exc()}")
            return pickle.dumps((None, error))


def _check_files(holder: object) -> None:
    """Raises InvalidConfig if a path among the object's attributes is not there."""
    for path in getattr(holder, "__dict__", {}).values():
        if isinstance(path, Path) and not path.exists():
            raise InvalidConfig(
                f"A node of the Ray cluster does not see {path.name}; the platform's home folder and the folders of base models "
                "must be on storage that all nodes mount under the same paths",
                file=path.name,
                node=ray.get_runtime_context().get_node_id(),
            )


@contextmanager
def _lost_work_is_unavailable() -> Iterator[None]:
    try:
        yield
    except RayTaskError:  # a fault in our code, with the worker's traceback
        raise
    except (RayError, ExecutionTimeoutError) as error:
        raise ServiceUnavailable(f"The Ray cluster lost the work ({type(error).__name__})") from error
