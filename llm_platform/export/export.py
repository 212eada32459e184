"""Exports that are proven to work: the adapter as it is, merged into its base model, or the whole model that was trained.

`export_adapter(adapter, out)`, `export_merged(base_model, adapter, out, reporter)` and `export_whole(base_model, model, out,
reporter)`. Nothing is exported whose answers were not seen to be those of the trained weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedModel

from llm_platform.errors import InvalidConfig, StorageError, TrainingError
from llm_platform.reporting import Reporter
from llm_platform.specs.base import Resource
from llm_platform.specs.export import ExportFormat
from llm_platform.training.adapter import (
    ADAPTER_WEIGHTS,
    causal_model,
    check_base,
    copy_tokenizer,
    ends,
    load_adapter,
    training_record,
)
from llm_platform.training.base_model import load, stored_dtype
from llm_platform.training.folders import sha256, whole_folder
from llm_platform.training.methods import SHARD, load_as_trained

PROMPTS = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n",
    "The quick brown fox jumps over the lazy dog.",
    "What is 17 + 25? Answer with a number:",
    "Hello",
)
TOLERANCE = 1e-3
"""Largest allowed difference of logits after merging in float32, relative to the largest logit. Measured: 1e-6 to 1e-5."""
HEADROOM = 1.05

Checks = dict[str, bool | int | float | str]


class ExportResult(Resource):
    """The exported folder. `checks` are what was seen when the export was tried."""

    format: ExportFormat
    files: list[str]
    size_bytes: int
    sha256: dict[str, str]
    checks: Checks


def export_adapter(adapter: Path, out: Path) -> ExportResult:
    """Copies the adapter's files to `out`. Raises InvalidConfig if it has pickles or its weights cannot be read, StorageError."""
    _check_pickles(adapter, "adapter")
    check_space(out, sum(path.stat().st_size for path in adapter.iterdir()))
    with whole_folder(out) as partial:
        _copy(adapter, partial)
        try:
            with safe_open(partial / ADAPTER_WEIGHTS, "pt") as file:
                tensors = len(list(file.keys()))
        except (SafetensorError, FileNotFoundError) as error:
            raise InvalidConfig("The adapter's weights are missing or cannot be read") from error
    return result_of("adapter", out, {"weights_readable": True, "tensors": tensors})


def export_merged(base_model: Path, adapter: Path, out: Path, reporter: Reporter) -> ExportResult:
    """Merges in float32 on the CPU and saves in the base's own precision, with tokenizer and generation config.

    Three things are proven, or TrainingError is raised: merging changed no logit (float32, `TOLERANCE`), the files hold exactly
    the merged weights, and transformers loads them whole. What rounding to the base's precision costs is in `checks`, and for an
    adapter that was trained on the base in 4 bits, how far the merged model is from what was trained (`quantization_difference`).
    """
    check_base(adapter, base_model)
    dtype = stored_dtype(base_model)
    check_space(out, int(sum(path.stat().st_size for path in base_model.glob("*.safetensors")) * HEADROOM))
    reporter.info("Loading the base model and the adapter")
    model = load_adapter(load(base_model, torch.float32), adapter)
    prompts = _prompts(base_model, causal_model(model).config.vocab_size)
    with torch.inference_mode():
        with model.disable_adapter():
            untuned = _logits(model, prompts)
        expected = _logits(model, prompts)
    reporter.check_cancelled()
    reporter.info("Merging")
    merged = cast(PreTrainedModel, cast(Any, model).merge_and_unload())
    difference = _difference(_logits(merged, prompts), expected)
    if not difference <= TOLERANCE:
        raise TrainingError(f"Merging changed the model: its logits are off by {difference:.2g} of their size. Nothing was exported")
    torch.nn.Module.to(merged, dtype)
    if (adapter / "generation_config.json").is_file():
        merged.generation_config = GenerationConfig.from_pretrained(adapter)
    with whole_folder(out) as partial:
        merged.save_pretrained(partial, max_shard_size=SHARD)
        copy_tokenizer(base_model, partial)
        reporter.check_cancelled()
        reporter.info("Checking the merged files")
        loaded = load(partial, dtype)
        tensors = _check_equal(loaded, merged)
        del merged, model
        loaded.float()
        found = _logits(loaded, prompts)
    checks: Checks = {
        "merge_difference": difference,
        "tensors_equal": tensors,
        "rounding_difference": _difference(found, expected),
        "same_next_token": float((found.argmax(-1) == expected.argmax(-1)).double().mean()),
        "adapter_effect": _difference(untuned, expected),
        "dtype": str(dtype).removeprefix("torch."),
    }
    record = training_record(adapter)
    if record is not None and record.get("quantization"):
        quantized = load_as_trained(base_model, adapter, torch.device("cpu"), torch.float32)
        checks["quantization_difference"] = _difference(found, _logits(quantized, prompts))
    reporter.info(f"Merged model checked: next tokens equal in {checks['same_next_token']:.1%} of positions", **checks)
    return result_of("merged", out, checks)


def export_whole(base_model: Path, model: Path, out: Path, reporter: Reporter) -> ExportResult:
    """Copies the files of a model all of whose weights were trained, and checks them: it is its own `merged` form.

    Raises InvalidConfig if it has pickles, other base weights or cannot be loaded whole, TrainingError if its answers are not
    those of the trained weights or nothing that can be read, StorageError.
    """
    check_base(model, base_model)
    _check_pickles(model, "model")
    check_space(out, int(sum(path.stat().st_size for path in model.iterdir()) * HEADROOM))
    dtype = stored_dtype(model)
    with whole_folder(out) as partial:
        _copy(model, partial)
        reporter.check_cancelled()
        reporter.info("Checking the model's files")
        loaded = load(partial, dtype)
        tensors = _check_equal(loaded, load(model, dtype))
        prompts = _prompts(base_model, loaded.config.vocab_size)
        found = _logits(loaded.float(), prompts)
        del loaded
        if not torch.isfinite(found).all():
            raise TrainingError("The model's logits are not finite numbers. Nothing was exported")
        checks: Checks = {
            "tensors_equal": tensors,
            "training_effect": _difference(_logits(load(base_model, torch.float32), prompts), found),
            "ends": ", ".join(map(str, ends(partial))),
            "dtype": str(dtype).removeprefix("torch."),
        }
    reporter.info("Model checked", **checks)
    return result_of("merged", out, checks)


def _check_pickles(folder: Path, what: str) -> None:
    pickles = [path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}]
    if pickles:
        raise InvalidConfig(f"The {what} has pickled files, which are not exported: {', '.join(pickles)}")


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)


def check_space(out: Path, needed: int) -> None:
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(f"The export needs {needed / 1e9:.1f} GB of disk, and {free / 1e9:.1f} GB are free", needed=needed, free=free)


def _prompts(base_model: Path, vocabulary: int) -> list[torch.Tensor]:
    """Token ids [1, T] of a few texts, and of random tokens, which every tokenizer has."""
    tokenizer = Tokenizer.from_file(str(base_model / "tokenizer.json"))
    texts = [torch.tensor([tokenizer.encode(text).ids[:64]]) for text in PROMPTS]
    drawn = torch.randint(vocabulary, (1, 32), generator=torch.Generator().manual_seed(0))
    return [*(ids for ids in texts if ids.numel()), drawn]


@torch.inference_mode()
def _logits(model: Any, prompts: list[torch.Tensor]) -> torch.Tensor:
    """Logits [T of all prompts, V]."""
    return torch.cat([model(input_ids=ids, use_cache=False).logits[0].float() for ids in prompts])


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def _check_equal(loaded: PreTrainedModel, merged: PreTrainedModel) -> int:
    """The number of weights, all equal bit by bit; raises TrainingError if one is not."""
    found, expected = loaded.state_dict(), merged.state_dict()
    wrong = [name for name, tensor in expected.items() if name not in found or not torch.equal(found[name], tensor)]
    if wrong:
        raise TrainingError(f"The merged model's files do not hold what was merged: {', '.join(wrong[:5])}. Nothing was exported")
    return len(expected)


def result_of(name: ExportFormat, folder: Path, checks: Checks) -> ExportResult:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return ExportResult(
        format=name,
        files=[path.name for path in files],
        size_bytes=sum(path.stat().st_size for path in files),
        sha256={path.name: sha256(path) for path in files},
        checks=checks,
    )
