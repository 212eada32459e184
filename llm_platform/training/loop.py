"""The training loop: steps, validation, figures, and the state from which it can go on.

Losses are sums over trained tokens divided by the trained tokens of the whole optimizer step, so that gradient accumulation
gives what one large batch would (a mean of the batches' means would weigh tokens of short batches more).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel

from llm_platform.errors import Cancelled, TrainingError
from llm_platform.reporting import Reporter
from llm_platform.specs import TrainingConfig
from llm_platform.training import batches, fit, optimizer
from llm_platform.training.adapter import causal_model, trainable
from llm_platform.training.batches import Schedule, collate, pack
from llm_platform.training.checkpoint import Checkpoint
from llm_platform.training.control import Asked, Control, Uncontrolled
from llm_platform.training.device import autocast, explain_out_of_memory, peak_memory_mb
from llm_platform.training.estimate import ModelShape
from llm_platform.training.loss import check_packing, head_is_last, row_losses, token_losses
from llm_platform.training.ranks import SOLO, Ranks
from llm_platform.training.result import Curve
from llm_platform.training.rows import Rows
from llm_platform.training.sharding import let_go, part_of, whole

TAIL = 20
"""Steps whose mean loss is the final loss."""
SHORT = 200
"""Runs of up to this many steps report each of them."""
REPORT_EVERY = 0.2
"""Seconds between the METRIC lines of longer runs."""
EARLY = 10
"""Steps after which the first checkpoint is written at the latest: if that cannot be, nobody wants to hear of it after hours."""
WEIGHTS, MOMENTS, RANDOM = "weights/", "optimizer/", "random/"
"""What a checkpoint's tensors belong to."""


def learning_rate(config: TrainingConfig, step: int, total: int) -> float:
    """The rate of a step (counted from 0): a linear warm-up that ends at the full rate, then the chosen schedule down to 0.

    As in transformers.get_scheduler, but the first step already learns.
    """
    warmup = math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return config.learning_rate * factor[config.lr_scheduler]


@dataclass
class Progress:
    """The figures so far; JSON in a checkpoint."""

    step: int = 0
    tokens: int = 0
    training_seconds: float = 0.0
    validation_seconds: float = 0.0
    tail: list[float] = field(default_factory=list)
    curve: Curve = field(default_factory=Curve)
    validation: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Progress:
        curve = Curve([(int(step), float(value)) for step, value in state["curve"]["points"]], state["curve"]["stride"])
        return cls(**{**state, "curve": curve, "validation": [(int(step), float(value)) for step, value in state["validation"]]})


class Loop:
    """A training run in memory. `run` calls `save` with a checkpoint whenever one is due."""

    def __init__(
        self,
        config: TrainingConfig,
        model: PeftModel | PreTrainedModel,
        rows: Rows,
        validation: Rows,
        device: torch.device,
        dtype: torch.dtype,
        reporter: Reporter,
        shape: ModelShape,
        ranks: Ranks = SOLO,
        control: Control | None = None,
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.sharded = config.sharding == "full"
        self.shape = shape
        self.model = model
        self.causal = causal_model(model)
        self.rows = rows
        self.validation = validation
        self.device = device
        self.dtype = dtype
        self.reporter = reporter
        self.parameters = trainable(model)
        self.optimizer = optimizer.build(optimizer.choose(config, device), config, self.parameters)
        self.schedule = Schedule(rows.lengths, config.batch_size, config.gradient_accumulation_steps, config.seed, config.packing)
        with autocast(device, dtype):
            self.chunked = head_is_last(self.causal, rows, device)
            if config.packing:
                check_packing(self.causal, rows, device, dtype)
        let_go(self.causal)  # what a sharded model has gathered for these looks would outlive `restore`
        if ranks.size > 1:
            torch.manual_seed(config.seed + ranks.rank)  # of dropout, which else were the same on each part of a batch
        self.total = config.max_steps or config.epochs * self.schedule.steps_per_epoch
        self.evaluate_every = config.evaluate_every or self.schedule.steps_per_epoch
        self.progress = Progress()
        self.control = control or Uncontrolled()
        self.asked = Asked.NOTHING

    @property
    def stopped_early(self) -> bool:
        """Whether the last `early_stopping_patience` validation losses brought no new lowest one."""
        patience, losses = self.config.early_stopping_patience, self.progress.validation
        return patience is not None and len(losses) - self._lowest() > patience

    @property
    def stopped_on_request(self) -> bool:
        """Whether the run was asked to stop, with steps left to take."""
        return self.asked is Asked.STOP and self.progress.step < self.total and not self.stopped_early

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.total or self.stopped_early or self.asked is Asked.STOP

    @property
    def kept_step(self) -> int:
        """The step whose weights are the result, as `keep` says."""
        validated = self.progress.validation
        return validated[self._lowest()][0] if self.config.keep == "best" and validated else self.progress.step

    def _lowest(self) -> int:
        """Which validation loss is the lowest, the first of equal ones."""
        losses = [loss for _, loss in self.progress.validation]
        return losses.index(min(losses)) if losses else 0

    def run(self, save: Callable[[Checkpoint], None]) -> None:
        """Trains from `progress.step` to the last step, or a stop before it. Raises TrainingError, or Cancelled between steps.

        Asked to stop before any step was taken, it raises Cancelled: there is nothing to keep.
        """
        meter = _Meter(self)
        per_epoch = self.schedule.steps_per_epoch
        plan: list[list[NDArray[np.int64]]] = []
        first = self.progress.step
        self.causal.train()
        self.asked = self.ranks.tell(self.control.asked())
        if self.asked is Asked.STOP and not self.progress.step:
            self.reporter.warn("Stopped before the first step: there is nothing to keep")
            raise Cancelled
        while not self.finished:
            self.reporter.check_cancelled()
            epoch, index = divmod(self.progress.step, per_epoch)
            if not plan or index == 0:
                plan = self.schedule.epoch(epoch)
            meter.report(*self._train_step(plan[index]))
            step = self.progress.step
            due = step % self.evaluate_every == 0 or step == self.total or self.asked is Asked.STOP
            best = due and len(self.validation) > 0 and self._validate()
            early = step == first + EARLY
            if best or early or self.finished or self.asked or step % self.config.checkpoint_every == 0:
                save(self.checkpoint())
                self._saved()

    def _saved(self) -> None:
        if self.asked is Asked.CHECKPOINT:
            self.control.saved()
            self.reporter.info(f"Checkpoint of step {self.progress.step} written, as requested", step=self.progress.step)

    def _train_step(self, step_batches: list[NDArray[np.int64]]) -> tuple[float, float, float]:
        """One optimizer step; (loss per trained token, learning rate, gradient norm before clipping)."""
        started = time.perf_counter()
        progress = self.progress
        largest = max(step_batches, key=lambda indices: int(self.rows.lengths[indices].sum()))
        labels = int(sum(self.rows.labels[indices].sum() for indices in step_batches))
        rate = learning_rate(self.config, progress.step, self.total)
        optimizer.set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(len(step_batches), device=self.device)
        for place, indices in enumerate(step_batches):
            mine = self.ranks.share(indices)
            if len(mine):
                sums[place] = self._backward(mine, labels)
            elif self.sharded:  # the others wait for this process's part of the weights
                self._backward(indices[:1], math.inf)
        with explain_out_of_memory(f"step {progress.step + 1}, in changing the weights", lambda: self._remedy(largest)):
            self._add_up(sums)
            norm = float(whole(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)))
            loss = float(sums.sum()) / labels
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise self._not_finite(step_batches, sums)
            self.optimizer.step()  # the first makes the moments
        progress.step += 1
        progress.tokens += int(sum(self.rows.lengths[indices].sum() for indices in step_batches))
        progress.tail = [*progress.tail[1 - TAIL :], loss]
        progress.curve.add(progress.step, loss)
        progress.training_seconds += time.perf_counter() - started
        return loss, rate, norm

    def _add_up(self, sums: torch.Tensor) -> None:
        """Adds the gradients and the losses of all processes up; with them goes what rank 0 was asked, so that all do it at one step."""
        asked = self.control.asked()
        if self.ranks.size == 1:
            self.asked = asked
            return
        told = torch.tensor([float(asked)], device=self.device)
        mine = [] if self.sharded else list(self.parameters.values())  # sharded ones are added up by the backward pass
        for parameter in mine:
            if parameter.grad is None:  # this process had no rows
                parameter.grad = torch.zeros_like(parameter)
        self.ranks.add_up([sums, told, *(parameter.grad for parameter in mine if parameter.grad is not None)])
        self.asked = Asked(int(told))

    def _backward(self, indices: NDArray[np.int64], labels: float) -> torch.Tensor:
        what = f"step {self.progress.step + 1}, on {len(indices)} rows of up to {self.rows.lengths[indices].max()} tokens"
        with explain_out_of_memory(what, lambda: self._remedy(indices)):
            batch = (pack if self.config.packing else collate)(self.rows, indices, self.device)
            with autocast(self.device, self.dtype):
                loss = token_losses(self.causal, batch, chunked=self.chunked).sum()
            (loss / labels).backward()
        return loss.detach()

    def _remedy(self, indices: NDArray[np.int64]) -> str:
        """What to change where a batch of these rows is too much."""
        tokens, trained = batches.size(self.rows.lengths[indices], packed=self.config.packing), int(self.rows.labels[indices].sum())
        return fit.remedy(self.shape, self.config, tokens=tokens, labels=trained, device=self.device)

    def _not_finite(self, step_batches: list[NDArray[np.int64]], sums: torch.Tensor) -> TrainingError:
        bad = [indices for indices, value in zip(step_batches, sums.tolist(), strict=True) if not math.isfinite(value)]
        rows = self.rows.numbers(np.concatenate(bad or step_batches))
        what = "loss" if bad else "gradient"
        return TrainingError(
            f"The {what} of step {self.progress.step + 1} is not a finite number (rows {', '.join(map(str, rows[:50]))}). "
            "The weights are still those of the step before. Lower learning_rate, or look at these rows",
            step=self.progress.step + 1,
            rows=rows,
        )

    def _validate(self) -> bool:
        """Measures the validation loss; whether it is the lowest so far."""
        started = time.perf_counter()
        progress = self.progress
        batch_size, validation = self.config.batch_size, self.validation
        losses = row_losses(self.causal, validation, batch_size, self.device, self.dtype, self.reporter, self.ranks)
        let_go(self.causal)
        loss = float(losses.sum()) / int(validation.labels.sum())
        progress.validation_seconds += time.perf_counter() - started
        best = all(loss < other for _, other in progress.validation)
        progress.validation.append((progress.step, loss))
        epoch = progress.step / self.schedule.steps_per_epoch
        self.reporter.metric(f"validation loss {loss:.4f}", step=progress.step, epoch=epoch, validation_loss=loss)
        return best

    def checkpoint(self) -> Checkpoint:
        """Everything that `restore` needs; all processes make it together, and rank 0 alone has its tensors."""
        tensors = {f"{WEIGHTS}{name}": parameter.detach() for name, parameter in self.parameters.items()}
        tensors |= {f"{MOMENTS}{name}": value for name, value in optimizer.state(self.optimizer, self.parameters)}
        for rank, state in enumerate(self.ranks.collect(self._random_state())):
            tensors[f"{RANDOM}{rank}"] = state
        last = self.progress.validation[-1] if self.progress.validation else None
        state = {
            "progress": asdict(self.progress),
            "validation_loss": last[1] if last and last[0] == self.progress.step else None,
        }
        gathered = ((name, whole(tensor)) for name, tensor in tensors.items())
        kept = {name: tensor.cpu().contiguous() for name, tensor in gathered if self.ranks.rank == 0}
        return Checkpoint(self.progress.step, state, kept)

    def restore(self, saved: Checkpoint) -> None:
        """Goes on from a checkpoint of the same config and data, of any number of processes."""
        self.progress = Progress.from_state(saved.state["progress"])
        self.restore_weights(saved)
        moments = {name.removeprefix(MOMENTS): value for name, value in saved.tensors.items() if name.startswith(MOMENTS)}
        optimizer.restore(self.optimizer, self.parameters, moments)
        if f"{RANDOM}{self.ranks.rank}" in saved.tensors:  # else this process is one more than there were, with a seed of its own
            self._set_random_state(saved.tensors[f"{RANDOM}{self.ranks.rank}"])

    def _random_state(self) -> torch.Tensor:
        """Of the generators of CPU and device, in one tensor of bytes on the device."""
        states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [])
        return torch.cat(states).to(self.device)

    def _set_random_state(self, state: torch.Tensor) -> None:
        cpu = len(torch.get_rng_state())
        torch.set_rng_state(state[:cpu].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state[cpu:].cpu(), self.device)

    def restore_weights(self, saved: Checkpoint) -> None:
        """The weights of a checkpoint alone."""
        put_weights(saved, self.parameters)


@torch.no_grad()
def put_weights(saved: Checkpoint, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Gives the trained parameters of a model what a checkpoint has for them."""
    for name, parameter in parameters.items():
        parameter.copy_(part_of(saved.tensors[f"{WEIGHTS}{name}"], parameter))


class _Meter:
    """METRIC lines and progress, with rates of this process alone."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.first = loop.progress.step
        self.started = self.reported = time.perf_counter()
        self.tokens = loop.progress.tokens

    def report(self, loss: float, rate: float, norm: float) -> None:
        loop, progress = self.loop, self.loop.progress
        loop.reporter.progress(progress.step, loop.total, "steps")
        now = time.perf_counter()
        if loop.total > SHORT and progress.step < loop.total and now - self.reported < REPORT_EVERY:
            return
        loop.reporter.metric(
            f"step {progress.step}/{loop.total}, loss {loss:.4f}",
            step=progress.step,
            epoch=progress.step / loop.schedule.steps_per_epoch,
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens_per_second=(progress.tokens - self.tokens) / (now - self.reported),
            eta_seconds=(now - self.started) / (progress.step - self.first) * (loop.total - progress.step),
            memory_mb=peak_memory_mb(loop.device),
        )
        self.reported, self.tokens = now, progress.tokens
