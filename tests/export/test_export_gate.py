"""The gate lets pass what answers as the evaluated model does, and catches what was damaged on purpose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_platform.export.exporter import Gates
from llm_platform.export.gate import judge, reference
from llm_platform.export.runtimes import Answers, Questions, ask_llama_cpp, ask_peft, ask_transformers
from llm_platform.reporting import ListReporter
from llm_platform.specs import GateConfig
from llm_platform.specs.gate import GateResult
from tests.export.conftest import CONFIG, Spoken
from tests.tiny_models import write_split

SPOILT = 77
"""A token that no answer has, in place of EOS."""


def judged(spoken: Spoken, ask: Callable[[Questions], Answers], config: GateConfig = CONFIG.gate) -> GateResult:
    return judge(0.95, config, spoken.known, ask, "its runtime")


def merged_eos(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": SPOILT}))


def merged_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|'", "<'"))


def merged_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] *= -1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def merged_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": None}))


def gguf_eos(folder: Path) -> None:
    """Its number, and its text in the vocabulary too: llama.cpp knows the usual texts of such tokens."""
    key = b"tokenizer.ggml.eos_token_id"
    path = folder / "model-f16.gguf"
    size = (4).to_bytes(8, "little")
    data = path.read_bytes().replace(size + b"</s>", size + b"</z>")
    value = data.index(key) + len(key) + 4  # behind the number of its type
    path.write_bytes(data[:value] + SPOILT.to_bytes(4, "little") + data[value + 4 :])


def gguf_template(folder: Path) -> None:
    path = folder / "model-f16.gguf"
    assert b"'<|' + message" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"'<|' + message", b"'<<' + message"))


def gguf_weights(folder: Path) -> None:
    path = folder / "model-f16.gguf"
    data = bytearray(path.read_bytes())
    half = len(data) // 2 * 2 - 40_000
    data[half + 1 :: 2] = bytes(byte ^ 0x80 for byte in data[half + 1 :: 2])  # the signs of 20,000 weights
    path.write_bytes(data)


def gguf_cut(folder: Path) -> None:
    path = folder / "model-f16.gguf"
    path.write_bytes(path.read_bytes()[:-50_000])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (merged_eos, "is the stop token"),
        (merged_template, "its chat template does not write conversations as in training"),
        (merged_weights, "greedy answers are those of the evaluated model"),
        (merged_tokenizer, "is the tokenizer right"),
        (gguf_eos, "is the stop token"),
        (gguf_template, "its chat template does not write conversations as in training"),
        (gguf_weights, "greedy answers are those of the evaluated model"),
        (gguf_cut, "llama.cpp could not run model-f16.gguf"),
    ],
)
def test_damage_is_caught(
    damage: Callable[[Path], None], reason: str, spoken: Spoken, exported: tuple[Path, Gates], tmp_path: Path
) -> None:
    part = "merged" if damage.__name__.startswith("merged") else "gguf"
    folder = shutil.copytree(exported[0] / part, tmp_path / part)
    damage(folder)

    def ask(questions: Questions) -> Answers:
        if part == "gguf":
            return ask_llama_cpp(folder / "model-f16.gguf", questions, tmp_path, 1, ListReporter())
        return ask_transformers(folder, questions, spoken.known.device, spoken.known.dtype, ListReporter())

    found = judged(spoken, ask)
    assert not found.accepted and any(reason in each for each in found.reasons), found
    if "template" in damage.__name__:
        assert len(found.reasons) == 1 and found.agreement == 1.0 and found.same_template is False
    assert str(tmp_path) not in found.model_dump_json()


def test_the_adapter_is_judged_by_peft(spoken: Spoken, tmp_path: Path) -> None:
    exporter = spoken.exporter(tmp_path)
    _, gates = exporter.make("adapter")
    assert gates["adapter"].accepted and gates["adapter"].logit_difference < 1e-5 and gates["adapter"].runtime == "peft"
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    save_file({name: tensor * 0 for name, tensor in tensors.items()}, tmp_path / "adapter" / "adapter_model.safetensors")
    device, dtype = spoken.known.device, spoken.known.dtype
    found = judged(spoken, lambda questions: ask_peft(spoken.base, tmp_path / "adapter", questions, device, dtype, ListReporter()))
    assert not found.accepted and found.agreement < 0.5 and found.logit_difference > 0.5


def test_thresholds_decide(spoken: Spoken, exported: tuple[Path, Gates]) -> None:
    def ask(questions: Questions) -> Answers:
        return ask_transformers(exported[0] / "merged", questions, spoken.known.device, spoken.known.dtype, ListReporter())

    assert judged(spoken, ask).accepted
    found = judged(spoken, ask, CONFIG.gate.model_copy(update={"max_logit_difference": 1e-12}))
    assert not found.accepted and found.agreement == 1.0 and "1e-12 are allowed" in found.reasons[0]


def test_without_test_rows_others_are_taken(spoken: Spoken, tmp_path: Path) -> None:
    for name in ("train", "validation"):
        shutil.copyfile(spoken.splits / f"{name}.parquet", tmp_path / f"{name}.parquet")
    write_split(tmp_path / "test.parquet", [])
    config = GateConfig(rows=3, max_new_tokens=4)
    found = reference(config, spoken.base, spoken.adapter, tmp_path, spoken.prompting, torch.device("cpu"), torch.float32, ListReporter())
    assert (found.split, len(found.answers)) == ("validation", 3)
