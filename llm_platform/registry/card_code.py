"""What a model card says about loading the model, format by format: code to copy."""

from __future__ import annotations

import json
import re

from llm_platform.registry.models import RegisteredModel
from llm_platform.specs.gate import gate_names

OWN_BASE = "llm-platform/"

_FIND_OWN = """\
from llm_platform.reporting import ConsoleReporter
from llm_platform.settings import Settings
from llm_platform.training.base_model import resolve

# This base model is not on the Hugging Face Hub: the platform builds it on your machine.
base = str(resolve({base}, Settings(), ConsoleReporter()))
"""

_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

{find}tokenizer = AutoTokenizer.from_pretrained("./adapter")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "./adapter")
prompt = "..."
inputs = tokenizer(prompt, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""

_MERGED = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("./merged")
model = AutoModelForCausalLM.from_pretrained("./merged")
prompt = "..."
inputs = tokenizer(prompt, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""

_MLFLOW = """\
import mlflow

mlflow.set_tracking_uri("http://localhost:5000")  # where your MLflow is
model = mlflow.pyfunc.load_model({uri})
print(model.predict(["..."]))
"""

_GGUF = """\
llama-cli -m ./gguf/{file} -p "..." -n 64 --temp 0
ollama create my-model -f ./gguf/Modelfile
ollama run my-model
"""


def adapter_code(model: RegisteredModel) -> str:
    base = json.dumps(model.base_model)
    find = _FIND_OWN.format(base=base) if model.base_model.startswith(OWN_BASE) else f"base = {base}\n"
    return _block("python", _ADAPTER.format(find=find))


def merged_code() -> str:
    return _block("python", _MERGED)


def mlflow_code(model: RegisteredModel) -> str:
    """By the version's number: an alias would be another model tomorrow."""
    return _block("python", _MLFLOW.format(uri=json.dumps(f"models:/{model.model_name}/{model.version}")))


def gguf_code(model: RegisteredModel) -> str:
    """Of the first quantization that the gate accepted."""
    accepted = [name for name in gate_names("gguf", model.gates) if model.gates[name].accepted and "." in name]
    return _block("bash", _GGUF.format(file=f"model-{accepted[0].removeprefix('gguf.')}.gguf" if accepted else "model-f16.gguf"))


def longest_ticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _block(language: str, code: str) -> str:
    fence = "`" * max(3, longest_ticks(code) + 1)
    return f"{fence}{language}\n{code}{fence}"
