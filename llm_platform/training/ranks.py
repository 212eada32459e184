"""Data-parallel training: several processes, one per GPU (or sharing a CPU), that take the steps of one.

Each batch's rows are dealt out, every process divides its sum of losses by the trained tokens of the whole optimizer step, and
gradients are added up over the processes once a step. So the result is that of one process, whatever the number: a mean of
the processes' means, which PyTorch's DistributedDataParallel takes, would weigh tokens of short rows more. The calling process
is rank 0; it alone reports and writes. It starts the others on its own machine, or finds them placed on several by an executor.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import distributed
from torch.multiprocessing.spawn import start_processes

from llm_platform.errors import Cancelled, PlatformError, ServiceUnavailable, TrainingError
from llm_platform.training.devices import ranks_folder

TIMEOUT = timedelta(minutes=10)
"""How long one process waits for the others in a step."""
BUCKET = 2**26
"""Numbers that are sent together."""
SAY_WHY_SECONDS = 5.0
"""How long rank 0 waits for one that has gone to say why."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train together; this one is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def share(self, indices: NDArray[Any]) -> NDArray[Any]:
        """This process's part of the rows of a batch."""
        return indices[self.rank :: self.size]

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces each tensor by its sum over all processes. All of one dtype."""
        if self.size == 1:
            return
        for together in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in together])
            distributed.all_reduce(flat)
            for tensor, part in zip(together, flat.split([tensor.numel() for tensor in together]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def collect(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every process's tensor; all have one shape."""
        if self.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(found, tensor)
        return found

    def tell(self, value: Any) -> Any:
        """What rank 0 tells all."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]


SOLO = Ranks()


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The tensors in order, as many at a time as `BUCKET` numbers have room for: what is sent is a copy."""
    together: list[torch.Tensor] = []
    for tensor in tensors:
        if together and sum(other.numel() for other in [*together, tensor]) > BUCKET:
            yield together
            together = []
        together.append(tensor)
    if together:
        yield together


@contextmanager
def joined(meet: str, rank: int, size: int, device: int) -> Iterator[Ranks]:
    """The block is one of `size` processes that meet at the URL `meet`; its GPU is number `device` of those that it sees."""
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(device)
        backend = "nccl"
    distributed.init_process_group(backend, init_method=meet, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield Ranks(rank, size)
    finally:
        distributed.destroy_process_group()


@contextmanager
def started(size: int, run: Callable[..., object], *arguments: Any) -> Iterator[Ranks]:
    """Starts `run(ranks, *arguments)` in `size - 1` processes of its own; the block is rank 0 beside them.

    `run` and the arguments must be picklable. When the block ends, or a process fails, all have ended. Raises what the first
    process raised that failed on its own account, as TrainingError if that was not a PlatformError. Where the processes were placed
    from outside they are waiting in `beside`, and whoever placed them ends them; ServiceUnavailable is raised if one is lost.
    """
    if size == 1:
        yield SOLO
        return
    if (folder := ranks_folder()) is not None:
        with _told_why(folder), joined("env://", 0, size, 0) as ranks:
            ranks.tell((run, arguments))
            yield ranks
        return
    with tempfile.TemporaryDirectory(prefix="ranks-") as name:
        folder = Path(name)
        # Not forked from here: this process may have threads and CUDA by now. What a new one imports is imported once for all, but
        # with a GPU only this: what training imports more asks the GPU for its features, which a child could then not use.
        preloaded = __name__ if torch.cuda.is_available() else __name__.replace(".ranks", ".train")
        get_context("forkserver").set_forkserver_preload([preloaded])
        context: Any = start_processes(_process, (folder, size, run, arguments), size - 1, join=False, start_method="forkserver")
        try:
            with joined((folder / "store").as_uri(), 0, size, 0) as ranks:
                yield ranks
            while not context.join():
                pass
        except Exception as error:
            for process in context.processes:
                process.join(timeout=5)  # one that failed has said why by then
            if isinstance(error, PlatformError | Cancelled):
                raise
            raise _first_error(folder, [process.exitcode for process in context.processes]) or error from error
        finally:
            for process in context.processes:
                process.kill()
                process.join()


def _process(index: int, folder: Path, size: int, run: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    rank = index + 1
    try:
        with joined((folder / "store").as_uri(), rank, size, rank) as ranks:
            run(ranks, *arguments)
    except PlatformError as error:
        _tell_why(folder, rank, error)
        raise


def beside() -> None:
    """A process that was placed from outside beside rank 0: does what that one asks for. Raises PlatformError."""
    folder, rank, size = ranks_folder(), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    assert folder is not None
    try:
        with joined("env://", rank, size, 0) as ranks:
            run, arguments = ranks.tell(None)
            run(ranks, *arguments)
    except PlatformError as error:
        _tell_why(folder, rank, error)
        raise


@contextmanager
def _told_why(folder: Path) -> Iterator[None]:
    """Errors of this process that come of another one's end become that one's error."""
    try:
        yield
    except PlatformError:
        raise
    except RuntimeError as error:  # of gloo, NCCL or the store where the processes meet
        if not isinstance(error, distributed.DistError) and not any(word in str(error) for word in ("gloo", "NCCL", "Connection")):
            raise
        deadline = time.monotonic() + SAY_WHY_SECONDS
        while time.monotonic() < deadline:
            if why := _first_error(folder, []):
                raise why from error
            time.sleep(0.1)
        message = "A process of this training on another machine was lost; the run can go on from its last checkpoint"
        raise ServiceUnavailable(message) from error


def _tell_why(folder: Path, rank: int, error: PlatformError) -> None:
    partial = folder / f"{rank}.partial"
    partial.write_text(json.dumps([error.message, error.metadata]))
    partial.rename(folder / f"{rank}.error")


def _first_error(folder: Path, exit_codes: list[int | None]) -> TrainingError | None:
    """Why a process beside this one failed, if one did."""
    for path in sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime_ns):
        message, metadata = json.loads(path.read_text())
        return TrainingError(message, **metadata)
    lost = next((code for code in exit_codes if code), None)
    if lost is None:
        return None
    how = f"was killed by signal {-lost}" if lost < 0 else f"ended with exit code {lost}"
    return TrainingError(f"A process of this training {how}; it may have run out of memory. The run can go on from its last checkpoint")
