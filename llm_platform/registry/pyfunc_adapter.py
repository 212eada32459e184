"""Loads an adapter as MLflow's pyfunc. A copy of this file lies with each adapter in MLflow, so it needs nothing of the platform.

`mlflow.pyfunc.load_model("models:/NAME/VERSION")` finds the base model by the name that the adapter gives it: in the hub's cache, or
on the hub. `model_config={"base_model": "/path"}` names a folder instead. A base model that the platform builds is found by the platform.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

MAX_NEW_TOKENS = 64
WEIGHTS = "adapter_model.safetensors"


class Adapter:
    """The base model with its adapter, answering greedily. Raises FileNotFoundError for an adapter without safetensors."""

    def __init__(self, folder: Path, base: str) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not (folder / WEIGHTS).is_file():  # peft would look for a pickle next
            raise FileNotFoundError(f"The adapter has no {WEIGHTS}; weights in formats that can run code are not loaded")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, use_safetensors=True), str(folder)).eval()
        if (folder / "generation_config.json").is_file():  # where training says what ends an answer
            from transformers import GenerationConfig

            self._model.get_base_model().generation_config = GenerationConfig.from_pretrained(folder)

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> list[str]:
        """The answer to each prompt: texts, or a table whose first column has them. Prompts are written as in training."""
        limit = int((params or {}).get("max_new_tokens", MAX_NEW_TOKENS))
        return [self._answer(str(prompt), limit) for prompt in _prompts(data)]

    def _answer(self, prompt: str, limit: int) -> str:
        inputs = self._tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        made = self._model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        return self._tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> Adapter:
    """What MLflow calls."""
    folder = Path(path)
    named = (model_config or {}).get("base_model")
    return Adapter(folder, str(named or _find(json.loads((folder / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"])))


def _find(base: str) -> str:
    if not base.startswith("llm-platform/"):
        return base
    base_model = importlib.import_module("llm_platform.training.base_model")
    settings, reporting = importlib.import_module("llm_platform.settings"), importlib.import_module("llm_platform.reporting")
    return str(base_model.resolve(base, settings.Settings(), reporting.ConsoleReporter()))


def _prompts(data: Any) -> list[Any]:
    if isinstance(data, str):
        return [data]
    return list(data.iloc[:, 0]) if hasattr(data, "iloc") and getattr(data, "ndim", 1) == 2 else list(data)
