"""A whole model as MLflow's transformers flavor, so that `mlflow.transformers.load_model` and `mlflow.pyfunc` load it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

NAMELESS = "./model"
"""Stands where MLflow would put a path of this machine; no hub id, so MLflow does not look for a card and a licence there."""
REQUIREMENTS = ("torch", "transformers", "accelerate")


def save_flavor(model: Path, target: Path) -> None:
    """Writes the model of a folder, in its own precision, to the new folder `target`. Loads it into memory."""
    from huggingface_hub import ModelCard
    from mlflow.transformers import save_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto", local_files_only=True, use_safetensors=True)
    loaded.name_or_path = NAMELESS
    save_model(
        transformers_model={"model": loaded, "tokenizer": AutoTokenizer.from_pretrained(model, local_files_only=True)},
        path=str(target),
        task="text-generation",
        # Not inferred, which takes a process of its own.
        pip_requirements=[f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS],
        model_card=ModelCard("---\n{}\n---\n"),
    )
    for name in ("LICENSE.txt", "model_card.md", "model_card_data.yaml"):  # made up by MLflow; the platform's card says what is known
        (target / name).unlink(missing_ok=True)
