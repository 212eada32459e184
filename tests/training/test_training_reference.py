"""The loop against twenty lines of plain PyTorch: full fine-tuning takes the very same steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from llm_platform.training.batches import Schedule
from llm_platform.training.rows import read_rows
from llm_platform.training.train import train
from tests.tiny_models import make_base, make_splits

RATE, STEPS, BATCH, SEED = 1e-3, 5, 8, 42


def plain_losses(base: Path, split: Path) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    rows = read_rows(split)
    losses: list[float] = []
    for (indices,) in Schedule(rows.lengths, BATCH, 1, SEED).epoch(0)[:STEPS]:
        width = max(int(rows.lengths[index]) for index in indices)
        ids = torch.zeros(len(indices), width, dtype=torch.long)
        labels = torch.full((len(indices), width), -100)
        for place, index in enumerate(indices):
            tokens, trained = torch.tensor(rows.tokens(index).tolist()), torch.tensor(rows.trained(index).tolist())
            ids[place, : len(tokens)] = tokens
            labels[place, : len(tokens)] = torch.where(trained, tokens, -100)
        logits = model(input_ids=ids).logits[:, :-1]
        loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_full_fine_tuning_is_plain_pytorch(tmp_path: Path) -> None:
    base, splits = make_base(tmp_path / "base"), make_splits(tmp_path / "splits")
    config = TrainingConfig(
        method="full", batch_size=BATCH, learning_rate=RATE, lr_scheduler="constant", warmup_ratio=0.0, max_steps=STEPS, seed=SEED
    )
    reporter = ListReporter()
    train(config, base, splits, tmp_path / "out", tmp_path / "work", reporter, base_name="org/base", threads=1)
    losses = [data["loss"] for level, _, data in reporter.lines if level == "METRIC" and "loss" in data]
    assert losses == pytest.approx(plain_losses(base, splits / "train.parquet"), rel=1e-5)
