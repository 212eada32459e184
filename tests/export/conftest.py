"""What the export tests share: a tiny model with a tokenizer that llama.cpp knows, trained until its answers end, and its exports."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llm_platform.data.preprocess import preprocess
from llm_platform.export.exporter import Exporter, Gates
from llm_platform.export.gate import Reference, reference
from llm_platform.export.prompting import Prompting
from llm_platform.reporting import ListReporter
from llm_platform.specs import ExportConfig, GateConfig, PreprocessingConfig, TrainingConfig
from llm_platform.training.tiny_llama.tokenizer import save
from llm_platform.training.train import train
from tests.tiny_fixtures import adapter, base
from tests.tiny_models import COLOURS

__all__ = ["adapter", "base"]
PREPROCESSING = PreprocessingConfig(base_model="org/spoken", template="zephyr", system_prompt="be short", dedup=False)
CONFIG = ExportConfig(formats=["merged", "gguf"], gguf_quantization=["f16", "q8_0"], gate=GateConfig(rows=8, max_new_tokens=12))


@dataclass(frozen=True)
class Spoken:
    """A base model with a SentencePiece tokenizer, an adapter of it, the splits, and what the adapter answers."""

    base: Path
    adapter: Path
    splits: Path
    prompting: Prompting
    known: Reference

    def exporter(self, folder: Path, config: ExportConfig = CONFIG) -> Exporter:
        return Exporter(config, self.base, self.adapter, self.prompting, self.known, folder, ListReporter(), 1)


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    folder = tmp_path_factory.mktemp("spoken")
    torch.set_num_threads(1)
    made = spoken_base(folder / "base")
    rng = random.Random(5)
    questions = [[rng.choice(COLOURS) for _ in range(3)] for _ in range(60)]
    pl.DataFrame({"instruction": [" ".join(words) for words in questions], "output": [words[0] for words in questions]}).write_parquet(
        folder / "rows.parquet"
    )
    preprocess([folder / "rows.parquet"], PREPROCESSING, made, folder / "splits", ListReporter())
    config = TrainingConfig(learning_rate=1e-2, batch_size=16, max_steps=40, lora_dropout=0.0, checkpoint_every=1000)
    train(config, made, folder / "splits", folder / "out", folder / "work", ListReporter(), base_name="org/spoken", threads=1)
    prompting = Prompting.of(PREPROCESSING, made)
    cpu = torch.device("cpu")
    known = reference(CONFIG.gate, made, folder / "out", folder / "splits", prompting, cpu, torch.float32, ListReporter())
    return Spoken(made, folder / "out", folder / "splits", prompting, known)


def spoken_base(folder: Path) -> Path:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(COLOURS)] * 20 + ["<|user|> <|assistant|> <|system|> be short"] * 20),
        model_writer=model, model_type="bpe", vocab_size=320, byte_fallback=True, character_coverage=1.0,
        allow_whitespace_only_pieces=True, remove_extra_whitespaces=False, normalization_rule_name="identity",
        unk_id=0, bos_id=1, eos_id=2, pad_id=3, pad_piece="<pad>", num_threads=1, minloglevel=2,
    )  # fmt: skip
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    save(model.getvalue(), folder, 256)
    return folder


@pytest.fixture(scope="session")
def exported(spoken: Spoken, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Gates]:
    """The folder with `merged` and `gguf`, and what the gate found."""
    folder = tmp_path_factory.mktemp("exported")
    exporter = spoken.exporter(folder)
    return folder, exporter.make("merged")[1] | exporter.make("gguf")[1]
