"""Exports answer as the adapter does, and nothing is exported that does not."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from llm_platform.errors import Cancelled, InvalidConfig
from llm_platform.export.export import ExportResult, export_adapter, export_merged
from llm_platform.reporting import ListReporter
from llm_platform.training.adapter import load_adapter
from llm_platform.training.base_model import load
from tests.tiny_models import EOS, make_adapter, make_base, make_rows, same_tensors, tensors


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([row["input_ids"][:8] for row in make_rows(8, 11)])).logits.float()


def check_files(result: ExportResult, out: Path) -> None:
    assert result.files == sorted(path.name for path in out.iterdir())
    assert result.size_bytes == sum(path.stat().st_size for path in out.iterdir())
    assert result.sha256 == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}


def test_merged_equals_the_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    reporter = ListReporter()
    result = export_merged(base, adapter, tmp_path / "out", reporter)
    check_files(result, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected = logits(load_adapter(load(base, torch.float32), adapter))
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(load(base, torch.float32)), expected, atol=0.1)
    assert (result.checks["dtype"], result.checks["same_next_token"]) == ("float32", 1.0)
    assert result.checks["adapter_effect"] > 0.1 > 1e-4 > result.checks["merge_difference"]  # type: ignore[operator]
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == EOS
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(("dtype", "tied"), [(torch.bfloat16, True), (torch.float16, False)])
def test_the_base_s_precision_is_kept(dtype: torch.dtype, tied: bool, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=dtype, tied=tied)
    adapter = make_adapter(base, tmp_path / "adapter", rows=make_rows(8, 11), steps=20)
    result = export_merged(base, adapter, tmp_path / "out", ListReporter())
    assert {tensor.dtype for tensor in tensors(tmp_path / "out", "model.safetensors").values()} == {dtype}
    assert result.checks["dtype"] == str(dtype).removeprefix("torch.")
    assert result.checks["merge_difference"] < 1e-4 < result.checks["rounding_difference"] < 0.05  # type: ignore[operator]


def test_the_adapter_is_exported_as_it_is(adapter: Path, base: Path, tmp_path: Path) -> None:
    result = export_adapter(adapter, tmp_path / "out")
    check_files(result, tmp_path / "out")
    assert same_tensors(tensors(tmp_path / "out"), tensors(adapter))
    assert torch.equal(*(logits(load_adapter(load(base, torch.float32), folder)) for folder in (adapter, tmp_path / "out")))


def test_pickles_are_not_exported(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InvalidConfig, match=r"adapter_model\.bin"):
        export_adapter(tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all"])
def test_an_adapter_that_cannot_be_read_is_not_exported(content: bytes | None, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    if content is not None:
        (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(InvalidConfig, match="weights are missing or cannot be read"):
        export_adapter(tmp_path / "adapter", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_adapter_of_another_base_is_not_merged(base: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidConfig, match="other base weights"):
        export_merged(tmp_path / "base", adapter, tmp_path / "out", ListReporter())


@pytest.mark.parametrize("checks", [0, 1])
def test_cancelling_leaves_nothing(checks: int, base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        export_merged(base, adapter, tmp_path / "out", ListReporter(cancel_after=checks))
    assert list(tmp_path.iterdir()) == []
