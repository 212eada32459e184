"""The adapter (LoRA, DoRA, rsLoRA): put on a base model, saved in peft's standard format, and loaded again."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm_platform.errors import InvalidConfig
from llm_platform.specs import TrainingConfig
from llm_platform.training import targets
from llm_platform.training.base_model import TOKENIZER_FILES, model_digest

ADAPTER_WEIGHTS = "adapter_model.safetensors"
TRAINING = "training.json"


def linear_modules(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """Full names of the linear layers that can be adapted: all but the output head.

    The head is left out because it is often the embedding itself; an adapter on one of two tied weights cannot be merged.
    """
    head = model.get_output_embeddings()
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D) and module is not head}


def lora_config(config: TrainingConfig, model: PreTrainedModel) -> LoraConfig:
    """peft's configuration of an adapter. Raises InvalidConfig if a target module is not a linear layer of this model."""
    linear, wanted = linear_modules(model), config.target_modules
    found = targets.chosen(wanted, linear)
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=cast(int, config.lora_alpha),  # peft only ever divides it by r or its root
        lora_dropout=config.lora_dropout,
        target_modules=targets.last_parts(found) if wanted == "all-linear" else wanted if isinstance(wanted, list) else found,
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        fan_in_fan_out=any(isinstance(linear[name], Conv1D) for name in found),
        task_type="CAUSAL_LM",
    )


def attach(model: PreTrainedModel, config: TrainingConfig, base_name: str) -> PeftModel:
    """The base model, frozen, with a fresh adapter whose start depends on `config.seed` alone."""
    peft_config = lora_config(config, model)
    torch.manual_seed(config.seed)
    with quiet_peft():
        attached = get_peft_model(model, peft_config)
    peft_config.base_model_name_or_path = base_name  # where get_peft_model put the local folder
    return cast(PeftModel, attached)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """peft 0.21 reads a property that transformers 5.23 renamed; the warning is for peft's authors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def causal_model(model: PeftModel | PreTrainedModel) -> PreTrainedModel:
    """The transformers model, with the adapter's layers in it where there is one."""
    return cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name; one that is tied to another only once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_adapter(model: PeftModel, eos: int, folder: Path) -> None:
    """Writes the adapter as peft has it, by the base model's public name, and how generation ends."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config["default"]
    config.inference_mode = True
    config.save_pretrained(str(folder))
    config.inference_mode = False
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text("utf-8"))
    settings["target_modules"] = sorted(settings["target_modules"])  # a set: its order would change from process to process
    path.write_text(json.dumps(settings, indent=2, sort_keys=True), "utf-8")
    generation_config(causal_model(model), eos).save_pretrained(folder)


def generation_config(model: PreTrainedModel, eos: int) -> GenerationConfig:
    """Greedy, and ends at the token that was trained to end an answer, as well as at those that the base model ends at."""
    known = model.generation_config.eos_token_id if model.generation_config else None
    ends = sorted({eos, *(known if isinstance(known, list) else [] if known is None else [known])})
    return GenerationConfig(
        do_sample=False,
        bos_token_id=model.config.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=model.config.pad_token_id if model.config.pad_token_id is not None else eos,
    )


def copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def is_adapter(folder: Path) -> bool:
    """Whether a folder of trained weights is an adapter; else it is a whole model."""
    return (folder / "adapter_config.json").is_file()


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """`base` with the adapter of a folder, frozen, in evaluation mode. Raises InvalidConfig if it does not fit the base whole."""
    if not (folder / ADAPTER_WEIGHTS).is_file() or not (folder / "adapter_config.json").is_file():
        raise InvalidConfig(f"The folder is no adapter: it lacks {ADAPTER_WEIGHTS} or adapter_config.json")
    try:
        with quiet_peft():
            model = PeftModel.from_pretrained(base, str(folder), is_trainable=False)
    except (ValueError, RuntimeError, KeyError) as error:
        raise InvalidConfig(f"The adapter does not fit this base model: {str(error).replace(str(folder), 'its folder')[:500]}") from error
    return model.eval()


def training_record(folder: Path) -> dict[str, Any] | None:
    """What training wrote beside the weights: config, digests, quantization of the base. None if they were made elsewhere."""
    path = folder / TRAINING
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def check_base(tuned: Path, base_model: Path) -> None:
    """Raises InvalidConfig if the trained weights say that they started from other base weights."""
    record = training_record(tuned)
    # Of an adapter made elsewhere, peft checks the shapes.
    if record is not None and record["digests"]["base"] != model_digest(base_model):
        what = "adapter" if is_adapter(tuned) else "model"
        raise InvalidConfig(f"The {what} was trained on other base weights than these; its answers would be meaningless")


def ends(folder: Path) -> list[int]:
    """The token ids that end an answer, from a folder's generation_config.json or, failing that, config.json."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        found = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return found if isinstance(found, list) else [found]
    raise InvalidConfig("Neither generation_config.json nor config.json names the token that ends an answer (eos_token_id)")
