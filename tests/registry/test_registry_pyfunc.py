"""An adapter in MLflow is a pyfunc that answers as the adapter does, offline, in a process that knows nothing of the platform."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_platform.registry import Registry
from tests.tiny_fixtures import adapter as trained_adapter
from tests.tiny_fixtures import base
from tests.tiny_models import make_rows

__all__ = ["base", "trained_adapter"]

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning",
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # peft's, about transformers
)

STRANGER = """
import json, sys

class NoPlatform:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llm_platform":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, NoPlatform())
import mlflow
uri, tracking, base, prompts, out = sys.argv[1:]
mlflow.set_tracking_uri(tracking)
model = mlflow.pyfunc.load_model(uri, model_config={"base_model": base})
answers = model.predict(json.loads(prompts), params={"max_new_tokens": 4})
json.dump({"answers": list(answers), "one": list(model.predict(json.loads(prompts)[:1]))}, open(out, "w"))
"""


def expected(base: Path, adapter: Path, prompts: list[str]) -> list[str]:
    tokenizer: Any = AutoTokenizer.from_pretrained(adapter)
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    ends = json.loads((adapter / "generation_config.json").read_text())["eos_token_id"]
    answers = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            made = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=ends, pad_token_id=0)
        answers.append(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


def test_mlflow_alone_answers_as_the_adapter_does(served: Registry, base: Path, trained_adapter: Path, tmp_path: Path) -> None:
    run = served.begin("model_pyfunc", "pyfunc", "train", "colours", "org/base", {"method": "lora"}, {}, [])
    version = served.register(run, trained_adapter, "colours")
    prompts = [row["prompt"] for row in make_rows(4, 11)]
    out = tmp_path / "answers.json"
    offline = {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    uri = f"models:/colours/{version}"
    call = [sys.executable, "-c", STRANGER, uri, served.tracking_uri, str(base), json.dumps(prompts), str(out)]
    done = subprocess.run(call, cwd=tmp_path, env={**os.environ, **offline}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    right = expected(base, trained_adapter, prompts)
    assert found["answers"] == right and len(set(right)) > 1 and all(right)
    assert found["one"][0].startswith(right[0])
    untuned: Any = AutoModelForCausalLM.from_pretrained(base)
    tokenizer: Any = AutoTokenizer.from_pretrained(trained_adapter)
    inputs = tokenizer(prompts[0], return_tensors="pt", return_token_type_ids=False)
    plain = untuned.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(plain, skip_special_tokens=True) != right[0], "else it would show nothing of the adapter"
