"""Which base models are allowed, and that nothing but whole safetensors weights is ever loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_platform.errors import InvalidConfig
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings
from llm_platform.training import base_model
from llm_platform.training.tiny_llama import MODEL_NAME


@pytest.fixture
def root(tmp_path: Path, base: Path) -> Path:
    """An allowed folder with one good model in it."""
    shutil.copytree(base, tmp_path / "roots" / "good")
    return tmp_path / "roots"


@pytest.fixture
def settings(root: Path, tmp_path: Path) -> Settings:
    return Settings(model_roots=[root], cache=tmp_path / "cache", home=tmp_path / "home")


def refused(name: str, settings: Settings) -> str:
    with pytest.raises(InvalidConfig) as caught:
        base_model.check_name(name, settings)
    return caught.value.message


def test_the_demo_model_an_allowed_folder_and_hub_ids_are_accepted(root: Path, settings: Settings) -> None:
    for name in (MODEL_NAME, str(root / "good"), "meta-llama/Llama-3.2-1B", "org/name_with.dots-and_1"):
        base_model.check_name(name, settings)
    assert base_model.resolve(str(root / "good"), settings, ListReporter()) == root / "good"


@pytest.mark.parametrize(
    "name",
    ["/etc", "~/models/x", "./good", "../good", "org/../x", "a/b/c", "file:///etc", "http://host/x", "s3://bucket/x", "C:\\models", "/\0"],
)
def test_other_paths_and_addresses_are_refused(name: str, settings: Settings) -> None:
    refused(name, settings)


@pytest.mark.parametrize("name", ["gpt2", "org/", "/name", "org/na me", "org/--x", "org/x.git", "-org/x", "org/" + "x" * 200, " "])
def test_what_is_no_hub_id_is_refused(name: str, settings: Settings) -> None:
    refused(name, settings)


def test_outside_and_missing_read_the_same_and_name_no_path(root: Path, tmp_path: Path, settings: Settings, base: Path) -> None:
    messages = {refused(str(path), settings) for path in (base, tmp_path / "nothing", root / "missing", root / "good" / ".." / ".." / "x")}
    assert len(messages) == 1
    assert str(tmp_path) not in messages.pop()


def test_a_link_out_of_the_allowed_folders_is_refused(root: Path, settings: Settings, base: Path) -> None:
    (root / "link").symlink_to(base)
    refused(str(root / "link"), settings)
    (root / "good" / "model.safetensors").unlink()
    (root / "good" / "model.safetensors").symlink_to(base / "model.safetensors")
    assert "leads outside" in refused(str(root / "good"), settings)


def test_pickled_weights_are_refused(root: Path, settings: Settings) -> None:
    (root / "good" / "model.safetensors").unlink()
    (root / "good" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "convert them to safetensors" in refused(str(root / "good"), settings)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(name: str, root: Path, settings: Settings) -> None:
    (root / "good" / name).unlink()
    assert "good" in refused(str(root / "good"), settings)


def test_a_missing_shard_is_named(root: Path, settings: Settings) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (root / "good" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00002.safetensors" in refused(str(root / "good"), settings)


def test_offline_a_hub_id_must_be_in_the_cache(tmp_path: Path) -> None:
    code = """
from llm_platform.errors import InvalidConfig
from llm_platform.settings import Settings
from llm_platform.training.base_model import check_name
try:
    check_name("org/name", Settings())
except InvalidConfig as error:
    print(error.message)
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout
    assert "HF_HUB_OFFLINE" in told


def test_missing_weights_are_not_made_up(root: Path, settings: Settings) -> None:
    path = root / "good" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if "layers.1.mlp.up_proj" not in name}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(InvalidConfig, match=r"layers\.1\.mlp\.up_proj"):
        base_model.load(root / "good", torch.float32)


def test_code_in_the_folder_is_not_run(root: Path) -> None:
    config = json.loads((root / "good" / "config.json").read_text())
    config |= {"model_type": "made_up", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (root / "good" / "config.json").write_text(json.dumps(config))
    (root / "good" / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(InvalidConfig) as caught:
        base_model.load(root / "good", torch.float32)
    assert str(root) not in caught.value.message


def test_the_digest_follows_the_weights(root: Path) -> None:
    folder = root / "good"
    first = base_model.model_digest(folder)
    assert base_model.model_digest(folder) == first
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert base_model.model_digest(folder) != first


def test_the_licence_is_read_and_never_invented(tmp_path: Path) -> None:
    assert base_model.license_of(tmp_path) is None
    for text, expected in (
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# Model", "apache-2.0"),
        ("# Model\nlicense: mit", None),
        ("---\ntags: [x]\n---\n", None),
        ("---\nlicense: [\n---\n", None),
    ):
        (tmp_path / "README.md").write_text(text)
        assert base_model.license_of(tmp_path) == expected


def test_checking_a_name_needs_no_torch() -> None:
    code = (
        "import sys, llm_platform.training.base_model as b; from llm_platform.settings import Settings; b.check_name('org/x', Settings())"
    )
    code += "; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
