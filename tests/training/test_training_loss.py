"""The loss is that of full logits and CrossEntropy(ignore_index=-100), in value and gradient, for several kinds of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    BloomConfig,
    Cohere2Config,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    RecurrentGemmaConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from llm_platform.errors import InvalidConfig
from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from llm_platform.training import adapter, base_model, loss
from llm_platform.training.batches import collate, pack
from llm_platform.training.loss import check_packing, head_is_last, label_logits, row_losses, token_losses
from llm_platform.training.rows import Rows, read_rows

SIZES: dict[str, Any] = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
KINDS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, intermediate_size=64),
    "gpt2, absolute positions": GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    "gemma2, soft caps": Gemma2Config(**SIZES, intermediate_size=64, head_dim=8, final_logit_softcapping=2.0, sliding_window=8),
    "cohere2, logit scale": Cohere2Config(**SIZES, intermediate_size=64, logit_scale=0.3, sliding_window=8, pad_token_id=0, eos_token_id=2),
}


def reference(model: PreTrainedModel, rows: Rows, indices: list[int]) -> torch.Tensor:
    """The textbook way: pad, mask attention, all logits, labels of -100 where nothing is trained."""
    width = int(rows.lengths[indices].max())
    ids, seen = torch.zeros(len(indices), width, dtype=torch.long), torch.zeros(len(indices), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for place, index in enumerate(indices):
        tokens = torch.from_numpy(rows.tokens(index).astype(np.int64))
        ids[place, : len(tokens)], seen[place, : len(tokens)] = tokens, 1
        labels[place, : len(tokens)] = torch.where(torch.from_numpy(rows.trained(index)), tokens, -100)
    logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def made(kind: str) -> PreTrainedModel:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(KINDS[kind], attn_implementation="eager" if "gemma" in kind else "sdpa").eval()


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "in parts"])
@pytest.mark.parametrize("form", [collate, pack])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_the_textbook(kind: str, form: Any, parts: bool, splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", 5 * 256 * 4)
    model = made(kind)
    rows, indices = read_rows(splits / "train.parquet"), [0, 5, 9, 20]

    def gradients(value: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        value.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}

    batch = form(rows, np.array(indices), torch.device("cpu"))
    assert len(batch.targets) > 5
    chunked = parts and head_is_last(model, rows, torch.device("cpu"))
    assert chunked == (parts and kind in ("llama", "gpt2, absolute positions"))
    ours, theirs = token_losses(model, batch, chunked=chunked).sum(), reference(model, rows, indices)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-4, atol=1e-5)


def test_no_logits_where_nothing_is_trained(base: Path, splits: Path) -> None:
    model = base_model.load(base, torch.float32)
    rows = read_rows(splits / "train.parquet")
    logits = label_logits(model, collate(rows, [0, 1], torch.device("cpu")))
    assert logits.shape == (int(rows.labels[:2].sum()), 256)


def test_lora_at_step_0_is_the_base(base: Path, splits: Path) -> None:
    batch = collate(read_rows(splits / "train.parquet"), [0, 1, 2], torch.device("cpu"))
    plain = base_model.load(base, torch.float32)
    with torch.no_grad():
        expected = label_logits(plain, batch)
        tuned = adapter.attach(plain, TrainingConfig(), "org/base")
        assert torch.equal(label_logits(adapter.causal_model(tuned), batch), expected)


def test_large_logits_are_never_whole(base: Path, splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", 3 * 256 * 4)
    model = base_model.load(base, torch.float32)
    head, seen = model.get_output_embeddings(), list[int]()
    assert isinstance(head, torch.nn.Module)
    head.register_forward_hook(lambda *call: seen.append(len(call[-1])))
    batch = collate(read_rows(splits / "train.parquet"), [0, 1], torch.device("cpu"))
    token_losses(model, batch, chunked=True).sum().backward()
    assert max(seen) <= 3 and sum(seen) == 2 * len(batch.targets), "made once forward, once backward"


def test_large_logits_are_never_whole_where_a_loss_is_measured(base: Path, splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, model, cpu = read_rows(splits / "train.parquet"), base_model.load(base, torch.float32), torch.device("cpu")
    whole = row_losses(model, rows, 8, cpu, torch.float32, ListReporter())
    monkeypatch.setattr(loss, "CHUNK_BYTES", 3 * 256 * 4)
    head, seen = model.get_output_embeddings(), list[int]()
    assert isinstance(head, torch.nn.Module)
    head.register_forward_hook(lambda *call: seen.append(call[-1].numel() // 256))
    parts = row_losses(model, rows, 8, cpu, torch.float32, ListReporter())
    assert max(seen) <= 3 and sum(seen) >= int(rows.labels.sum())
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


REFUSED: dict[str, tuple[PretrainedConfig, str]] = {
    "no positions": (BloomConfig(vocab_size=256, hidden_size=32, n_layer=2, n_head=4), "takes no positions"),
    "recurrent": (
        RecurrentGemmaConfig(**SIZES, intermediate_size=64, lru_width=32, block_types=["recurrent", "attention"], attention_window_size=8),
        "does not keep packed rows apart",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_packing_is_refused_where_rows_would_see_each_other(kind: str, splits: Path) -> None:
    torch.manual_seed(1)
    config, message = REFUSED[kind]
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    with pytest.raises(InvalidConfig, match=message):
        check_packing(model, read_rows(splits / "train.parquet"), torch.device("cpu"), torch.float32)


def test_packing_is_allowed_where_rows_are_kept_apart(splits: Path) -> None:
    for kind in KINDS:
        check_packing(made(kind), read_rows(splits / "train.parquet"), torch.device("cpu"), torch.float32)
