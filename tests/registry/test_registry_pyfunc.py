"""What MLflow alone loads answers as the adapter does, offline, in a process that knows nothing of the platform: the adapter as a
pyfunc, and its merged model in the transformers flavor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_platform.export.export import export_merged
from llm_platform.registry import Registry
from llm_platform.registry.pyfunc_adapter import WEIGHTS, Adapter
from llm_platform.reporting import ListReporter
from tests.tiny_fixtures import adapter as trained_adapter
from tests.tiny_fixtures import base
from tests.tiny_models import make_rows

__all__ = ["base", "trained_adapter"]

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning",
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # peft's, about transformers
    "ignore:.*Any type hint is inferred as AnyType:UserWarning",  # when MLflow imports its own module
)

STRANGER = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("llm_platform", "dagster_project", "api"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Missing())
import mlflow
uri, tracking, base, prompts, out = sys.argv[1:]
mlflow.set_tracking_uri(tracking)
model = mlflow.pyfunc.load_model(uri, model_config={"base_model": base})
answers = model.predict(json.loads(prompts), params={"max_new_tokens": 4})
json.dump({"answers": list(answers), "one": list(model.predict(json.loads(prompts)[:1]))}, open(out, "w"))
"""

MERGED = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("llm_platform", "dagster_project", "api"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Missing())
sys.modules["peft"] = None  # whoever looks whether it is there finds that it is not
import mlflow
uri, tracking, prompts, out = sys.argv[1:]
mlflow.set_tracking_uri(tracking)
ask = mlflow.transformers.load_model(uri)
settings = {"max_new_tokens": 4, "do_sample": False, "return_full_text": False}
json.dump([ask(prompt, **settings)[0]["generated_text"] for prompt in json.loads(prompts)], open(out, "w"))
"""


def alone(code: str, folder: Path, *given: str) -> None:
    """Runs code in a process that finds no hub, and no settings of anybody's."""
    offline = {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    call = [sys.executable, "-c", code, *given]
    done = subprocess.run(call, cwd=folder, env={**os.environ, **offline}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


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
    alone(STRANGER, tmp_path, f"models:/colours/{version}", served.tracking_uri, str(base), json.dumps(prompts), str(out))
    found = json.loads(out.read_text())
    right = expected(base, trained_adapter, prompts)
    assert found["answers"] == right and len(set(right)) > 1 and all(right)
    assert found["one"][0].startswith(right[0])
    untuned: Any = AutoModelForCausalLM.from_pretrained(base)
    tokenizer: Any = AutoTokenizer.from_pretrained(trained_adapter)
    inputs = tokenizer(prompts[0], return_tensors="pt", return_token_type_ids=False)
    plain = untuned.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(plain, skip_special_tokens=True) != right[0], "else it would show nothing of the adapter"


def test_its_merged_model_loads_without_peft_and_answers_as_it_does(
    served: Registry, base: Path, trained_adapter: Path, tmp_path: Path
) -> None:
    run = served.begin("model_merged", "merged", "train", "colours", "org/base", {"method": "lora"}, {}, [])
    served.register(run, trained_adapter, "colours")
    export_merged(base, trained_adapter, tmp_path / "merged", ListReporter())
    uri = served.log_merged("model_merged", tmp_path / "merged")
    assert uri == f"runs:/{run}/merged"
    prompts = [row["prompt"] for row in make_rows(4, 11)]
    alone(MERGED, tmp_path, uri, served.tracking_uri, json.dumps(prompts), str(tmp_path / "answers.json"))
    found = [answer.strip() for answer in json.loads((tmp_path / "answers.json").read_text())]
    assert found == expected(base, trained_adapter, prompts) and all(found)


def test_an_adapter_in_a_pickle_is_not_loaded(base: Path, trained_adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained_adapter, tmp_path / "adapter"))
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="can run code are not loaded"):
        Adapter(folder, str(base))
