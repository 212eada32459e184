"""A random Llama of a few thousand weights, a tokenizer, and splits of generated rows: made in process, in a second."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from llm_platform.training.train import train

COLOURS = ["blue", "green", "yellow", "grey", "white", "black", "coal", "snow", "grass", "sky", "sun", "sea"]
WORDS = [*COLOURS, *(f"w{number}" for number in range(70))]
BOS, EOS, UNK = 1, 2, 0
VOCABULARY = 256


def tokenizer() -> Tokenizer:
    """Words by spaces; ids 0 to 2 are unk, bos, eos."""
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    made.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # type: ignore[assignment]
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def make_base(folder: Path, *, dtype: torch.dtype = torch.float32, tied: bool = True) -> Path:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config)
    torch.nn.Module.to(model, dtype)
    model.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def make_rows(count: int, seed: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows of 8 to 40 tokens: some words, and as completion the first and last of them."""
    rng, encode, rows = random.Random(seed), tokenizer(), []
    for number in range(count):
        words = [rng.choice(WORDS) for _ in range(rng.randint(4, 34))]
        prompt, completion = " ".join(words), f"{words[0]} {words[-1]}"
        head, tail = encode.encode(prompt, add_special_tokens=False).ids, encode.encode(completion, add_special_tokens=False).ids
        rows.append(
            {
                "row": first + number,
                "prompt": prompt,
                "completion": completion,
                "input_ids": [BOS, *head, *tail, EOS],
                "loss_mask": [False] * (1 + len(head)) + [True] * (len(tail) + 1),
            }
        )
    return rows


SCHEMA = {"row": pl.Int64, "prompt": pl.String, "completion": pl.String, "input_ids": pl.List(pl.Int32), "loss_mask": pl.List(pl.Boolean)}


def write_split(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, schema=SCHEMA).write_parquet(path)
    return path


def make_splits(folder: Path, train: int = 40, validation: int = 8, test: int = 12) -> Path:
    write_split(folder / "train.parquet", make_rows(train, 1, 100))
    write_split(folder / "validation.parquet", make_rows(validation, 2, 1000))
    write_split(folder / "test.parquet", make_rows(test, 3, 2000))
    return folder


def tensors(folder: Path, name: str = "adapter_model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def make_adapter(base: Path, folder: Path, *, rows: list[dict[str, Any]], steps: int = 60) -> Path:
    """An adapter that learned these rows by heart, at `folder / "out"`."""
    return make_trained(base, folder, rows=rows, config=TrainingConfig(learning_rate=1e-2), steps=steps)


def make_trained(base: Path, folder: Path, *, rows: list[dict[str, Any]], config: TrainingConfig, steps: int = 60) -> Path:
    """The same by another method, or with other settings."""
    splits = make_splits(folder / "splits", validation=0)
    write_split(splits / "train.parquet", rows)
    changes: dict[str, Any] = {"batch_size": len(rows), "lora_dropout": 0.0, "max_steps": steps, "checkpoint_every": 1000}
    train(config.model_copy(update=changes), base, splits, folder / "out", folder / "work", ListReporter(), base_name="org/base", threads=1)
    return folder / "out"
