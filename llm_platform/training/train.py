"""Fine-tuning: `train(config, base_model, splits, out, work, reporter, base_name=...)`.

An ordinary function that knows nothing of who calls it. float32 on the CPU, where the same seed gives the same bits, also
after a kill and a resume; bfloat16 with what is trained in float32 on a GPU. The loop is our own: length-grouped batches,
logits only where a token is trained, a fused optimizer.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from llm_platform.errors import DatasetError
from llm_platform.reporting import ListReporter, Reporter
from llm_platform.specs import TrainingConfig
from llm_platform.training import checkpoint, fit, methods, optimizer
from llm_platform.training.adapter import causal_model, trainable
from llm_platform.training.base_model import model_digest
from llm_platform.training.checkpoint import Checkpoint
from llm_platform.training.control import Asked, Control
from llm_platform.training.device import explain_out_of_memory, peak_memory_mb, pick_device, versions
from llm_platform.training.devices import check_enough, ranks_folder
from llm_platform.training.estimate import model_shape
from llm_platform.training.folders import whole_folder
from llm_platform.training.loop import Loop, put_weights
from llm_platform.training.quantize import count
from llm_platform.training.ranks import Ranks, started
from llm_platform.training.result import TrainingResult
from llm_platform.training.rows import Rows, check_rows, read_rows
from llm_platform.training.sharding import spread

NO_EFFECT = {"model_name", "gradient_checkpointing", "sharding", "checkpoint_every", "checkpoints_kept", "resume", "devices", "compile"}
"""Fields of the config that change the weights by no more than rounding, so that a checkpoint made under others is as good."""


def train(
    config: TrainingConfig,
    base_model: Path,
    splits: Path,
    out: Path,
    work: Path,
    reporter: Reporter,
    *,
    base_name: str,
    threads: int = 0,
    control: Control | None = None,
) -> TrainingResult:
    """Trains on `splits/train.parquet` and writes an adapter or a whole model to the folder `out`, whole or not at all.

    `work` keeps the checkpoints; a call with the same config, data and base goes on from the latest one there, if `resume` says so.
    `base_name` is the public name of the base model, which is what the adapter's files call it. `control` may ask for a checkpoint,
    or for an end before the last step; the result is then of the steps that were taken, and Cancelled is raised if there were none.
    Raises DatasetError, InvalidConfig, TrainingError, StorageError, or Cancelled.
    """
    if ranks_folder() is None:
        check_enough(config.devices, torch.cuda.device_count())
        threads = max(1, (threads or torch.get_num_threads()) // config.devices) if config.devices > 1 else threads
    arguments = (config, base_model, splits, out, work, base_name, threads)
    with started(config.devices, _train_beside, *arguments) as ranks:
        result = _train(ranks, reporter, control, *arguments)
    assert result is not None  # of rank 0
    return result


def _train_beside(ranks: Ranks, *arguments: Any) -> None:
    """A process beside rank 0: nobody hears it, and it is told to stop by its end."""
    _train(ranks, ListReporter(), None, *arguments)


def _train(
    ranks: Ranks,
    reporter: Reporter,
    control: Control | None,
    config: TrainingConfig,
    base_model: Path,
    splits: Path,
    out: Path,
    work: Path,
    base_name: str,
    threads: int,
) -> TrainingResult | None:
    """The whole of `train` in one of the processes; rank 0 alone writes, and has a result."""
    device, dtype = pick_device(threads, config.dtype)
    optimizer.choose(config, device)
    rows, validation = read_rows(splits / "train.parquet"), read_rows(splits / "validation.parquet")
    if not len(rows):
        raise DatasetError("The training split is empty; give more rows, or a larger share for training")
    _check_needs_validation(config, validation)
    digests = {
        "config": _digest(config.model_dump(mode="json", exclude=NO_EFFECT)),
        "data": _digest([rows.digest(), validation.digest()]),
        "base": model_digest(base_model),
    }
    checkpoints = work / "checkpoints"
    if ranks.rank == 0:
        # An attempt that was killed after it was asked to keep what it has is followed by one that does, whatever `resume` says.
        resume = config.resume or (control is not None and control.asked() is Asked.STOP)
        saved = _checkpoint_to_resume(checkpoints, digests, reporter) if resume else _start_anew(checkpoints, reporter)
        ranks.tell(saved.step if saved else None)
    else:
        step = ranks.tell(None)
        saved = checkpoint.read(checkpoint.path_of(checkpoints, step)) if step is not None else None

    decided: TrainingConfig = ranks.tell(fit.decide(config, base_model, rows, device))
    if config.sharding == "auto" and decided.sharding == "full":
        reporter.info(f"The model is spread over {config.devices} devices: by estimate one alone would not have memory enough")
    if config.gradient_checkpointing == "auto" and decided.gradient_checkpointing == "on":
        reporter.info("Gradient checkpointing is on: by estimate the largest batch would not fit into memory without it")
    shape = model_shape(base_model)
    tokens, labels = fit.largest(config, rows)
    with explain_out_of_memory("loading the model", lambda: fit.remedy(shape, decided, tokens=tokens, labels=labels, device=device)):
        model = methods.build(decided, base_model, base_name, device, dtype)
        for part, split in (rows, "training"), (validation, "validation"):
            _check(part, split, causal_model(model))
        if decided.sharding == "full":
            spread(causal_model(model), ranks, device)
        loop = Loop(decided, model, rows, validation, device, dtype, reporter, shape, ranks, control)
        if saved is not None:
            loop.restore(saved)
    if saved is not None:
        reporter.info(f"Resuming from the checkpoint of step {saved.step}", step=saved.step)
    trained = sum(parameter.numel() for parameter in loop.parameters.values())
    reporter.info(
        f"Training {trained:,} parameters on {len(rows):,} rows for {loop.total:,} steps on {device.type}",
        rows=len(rows),
        steps=loop.total,
        trainable_parameters=trained,
    )
    verified = False

    def save(made: Checkpoint) -> None:
        nonlocal verified
        if ranks.rank:
            return
        state = {**made.state, "digests": digests, "config": config.model_dump(mode="json"), "base_name": base_name}
        kept = config.checkpoints_kept
        checkpoint.write(checkpoints, Checkpoint(made.step, state, made.tensors), keep=kept, verify=not verified)
        verified = True

    loop.run(save)
    if ranks.rank:
        return None
    if loop.stopped_early:
        reporter.info(f"Stopped early after step {loop.progress.step}: the validation loss has no new lowest", step=loop.progress.step)
    if loop.stopped_on_request:
        reporter.info(f"Stopped on request after step {loop.progress.step} of {loop.total}", step=loop.progress.step)
    if loop.kept_step != loop.progress.step:
        loop.restore_weights(checkpoint.read(checkpoint.path_of(checkpoints, loop.kept_step)))
        reporter.info(f"Keeping the weights of step {loop.kept_step}, which has the lowest validation loss", step=loop.kept_step)
    result = _result(loop, trained, saved)
    record: dict[str, Any] = {
        "base_model": base_name,
        "config": config.model_dump(mode="json"),
        "digests": digests,
        "steps": loop.progress.step,
        "kept_step": loop.kept_step,
        "dtype": str(dtype).removeprefix("torch."),
        "versions": versions(),
    }
    if loop.sharded:  # no process has all of the weights, and the checkpoint has
        model = methods.build(
            decided.model_copy(update={"sharding": "none", "compile": False}), base_model, base_name, torch.device("cpu"), dtype
        )
        put_weights(checkpoint.read(checkpoint.path_of(checkpoints, loop.kept_step)), trainable(model))
    with whole_folder(out) as partial:
        methods.save(model, base_model, _end(rows), record, partial)
    reporter.info(f"Trained {result.steps:,} steps in {result.seconds:.1f} s, final loss {result.final_loss:.4f}")
    return result


def _check_needs_validation(config: TrainingConfig, validation: Rows) -> None:
    """Raises DatasetError if the config decides by a validation loss that there are no rows for."""
    fields = config.fields_on_validation
    if fields and not len(validation):
        message = "needs validation rows, and the validation split is empty; give it a share in the preprocessing node's split"
        raise DatasetError(f"{fields[0]} {message}, or leave it out", errors=[{"field": name, "message": message} for name in fields])


def _start_anew(checkpoints: Path, reporter: Reporter) -> None:
    if checkpoint.folders(checkpoints):
        reporter.info("resume is off: the checkpoints here are removed, and training starts anew")
    shutil.rmtree(checkpoints, ignore_errors=True)


def _checkpoint_to_resume(checkpoints: Path, digests: dict[str, str], reporter: Reporter) -> Checkpoint | None:
    """The latest checkpoint, if it is one of this very run; those of another run are removed."""
    saved = checkpoint.latest(checkpoints)
    if saved is None:
        return None
    changed = [part for part, digest in digests.items() if saved.state["digests"].get(part) != digest]
    if not changed:
        return saved
    reporter.warn(f"The checkpoints here are of another {' and '.join(changed)}; training starts anew")
    shutil.rmtree(checkpoints)
    return None


def _end(rows: Rows) -> int:
    """The token that answers were trained to end with: that of most rows, since rows cut at their end have lost theirs."""
    return int(np.bincount(rows.ids[rows.offsets[1:] - 1]).argmax())


def _check(rows: Rows, split: str, model: PreTrainedModel) -> None:
    check_rows(rows, split, vocabulary=model.config.vocab_size, context=getattr(model.config, "max_position_embeddings", None))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _result(loop: Loop, trained: int, saved: Checkpoint | None) -> TrainingResult:
    progress = loop.progress
    return TrainingResult(
        steps=progress.step,
        epochs=progress.step / loop.schedule.steps_per_epoch,
        final_loss=sum(progress.tail) / len(progress.tail),
        validation_loss=next((loss for step, loss in reversed(progress.validation) if step == loop.kept_step), None),
        trainable_parameters=trained,
        total_parameters=sum(count(parameter) for parameter in loop.model.parameters()),
        tokens=progress.tokens,
        seconds=progress.training_seconds + progress.validation_seconds,
        tokens_per_second=progress.tokens / progress.training_seconds,
        peak_memory_mb=peak_memory_mb(loop.device),
        resumed_from=saved.step if saved else None,
        kept_step=loop.kept_step,
        stopped_early=loop.stopped_early,
        stopped_on_request=loop.stopped_on_request,
        losses=progress.curve.up_to(progress.step, progress.tail[-1]),
        validation_losses=progress.validation,
        device=torch.cuda.get_device_name(loop.device) if loop.device.type == "cuda" else "cpu",
        versions=versions(),
    )
