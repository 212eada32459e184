"""What a method trains, and what is kept of it: an adapter (`lora`), one on a base in 4 bits (`qlora`), or all weights (`full`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from llm_platform.specs import TrainingConfig
from llm_platform.training import adapter, attention
from llm_platform.training.base_model import load, stored_dtype
from llm_platform.training.compiling import compile_layers
from llm_platform.training.lora import add_to_weights
from llm_platform.training.quantize import SCHEME, load_4bit

SHARD = "4GB"


def build(
    config: TrainingConfig, base_model: Path, base_name: str, device: torch.device, dtype: torch.dtype
) -> PeftModel | PreTrainedModel:
    """The model on `device`, with gradients where the method trains; one that will be spread over devices still on the CPU.

    Raises InvalidConfig.

    Adapters are float32 on a frozen base in `dtype` (or 4 bits). All weights are trained in float32, with arithmetic in `dtype`:
    in bfloat16, with 8 bits of precision, most steps would be rounded away, and float32 copies beside bfloat16 weights and
    gradients would take the same 16 bytes a weight (AdamW's two moments included).
    """
    model: PeftModel | PreTrainedModel
    if config.method == "full":
        model = load(base_model, torch.float32).requires_grad_(True)
        torch.manual_seed(config.seed)  # of dropout, where the model has some
    elif config.method == "qlora":
        model = adapter.attach(load_4bit(base_model, dtype, device), config, base_name)
    else:
        model = adapter.attach(load(base_model, dtype), config, base_name)
        if config.sharding != "full":
            add_to_weights(model)
    attention.set_for_training(adapter.causal_model(model), packing=config.packing, device=device, dtype=dtype)
    if config.gradient_checkpointing == "on":
        adapter.causal_model(model).activation_checkpointing_enable({"use_reentrant": False})
    if config.compile:
        compile_layers(adapter.causal_model(model), device)
    if config.method != "qlora" and config.sharding != "full":
        torch.nn.Module.to(model, device)
    return model


def save(model: PeftModel | PreTrainedModel, base_model: Path, eos: int, record: dict[str, Any], folder: Path) -> None:
    """Writes the trained weights with tokenizer, generation config and `record` (as training.json) to a folder.

    An adapter stays in float32; a whole model is rounded to the precision of the base's files, which is what then is evaluated
    and exported.
    """
    if isinstance(model, PeftModel):
        adapter.save_adapter(model, eos, folder)
    else:
        for parameter in model.parameters():  # not the buffers, of which some must stay in float32
            parameter.data = parameter.data.to(stored_dtype(base_model))
        model.generation_config = adapter.generation_config(model, eos)
        model.save_pretrained(folder, max_shard_size=SHARD)
    adapter.copy_tokenizer(base_model, folder)
    quantization = SCHEME if record["config"]["method"] == "qlora" else None
    (folder / adapter.TRAINING).write_text(json.dumps({**record, "quantization": quantization}, indent=2, sort_keys=True), "utf-8")


def load_as_trained(base_model: Path, folder: Path, device: torch.device, dtype: torch.dtype) -> PeftModel | PreTrainedModel:
    """Trained weights as they were in training: a whole model, or an adapter on the base in the precision that it was trained on."""
    if not adapter.is_adapter(folder):
        model: PeftModel | PreTrainedModel = load(folder, dtype)
    else:
        record = adapter.training_record(folder)
        quantized = record is not None and record.get("quantization") is not None
        model = adapter.load_adapter(load_4bit(base_model, dtype, device) if quantized else load(base_model, dtype), folder)
    return model.eval()
