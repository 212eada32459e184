"""Tokenizers trained on the spot, tables, and real rows where this machine has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
BYTES = [f"<0x{code:02X}>" for code in range(256)]
GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k" / "train.jsonl"


def generated_rows(count: int) -> list[dict[str, str]]:
    """Word problems in the manner of GSM8K, all different."""
    names = ("Ana", "Béla", "Chidi", "Dörte", "Emre")
    things = ("apples", "clips", "pages", "stamps")
    rows = []
    for number in range(count):
        name, thing = names[number % 5], things[number // 5 % 4]
        question = f"{name} had {number} {thing} and bought {number % 7 + 1} more. How many {thing} does {name} have now?"
        answer = f"{name} has {number} + {number % 7 + 1} = {number + number % 7 + 1} {thing}.\n#### {number + number % 7 + 1}"
        rows.append({"question": question, "answer": answer})
    return rows


def _corpus() -> list[str]:
    return [f"{row['question']}\n{row['answer']}" for row in generated_rows(400)]


def _metaspace_bpe() -> Tokenizer:
    """As Llama 2 converted by newer versions: Metaspace puts the space before the first word."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL + BYTES, show_progress=False, limit_alphabet=60)
    tokenizer.train_from_iterator(_corpus(), trainer)
    return _without_newlines(tokenizer)


def _without_newlines(tokenizer: Tokenizer) -> Tokenizer:
    """SentencePiece never puts a newline into a piece: it is a byte. And bytes are no special tokens."""
    settings = json.loads(tokenizer.to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["content"] in SPECIAL]
    model = settings["model"]
    model["merges"] = [pair for pair in model["merges"] if "\n" not in "".join(pair)]
    pieces = [piece for piece in model["vocab"] if "\n" not in piece]
    model["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    return Tokenizer.from_str(json.dumps(settings))


def _legacy_bpe() -> Tokenizer:
    """As Llama 2 itself: a normaliser prepends the space, and there is no pre-tokenizer."""
    settings = json.loads(_metaspace_bpe().to_str())
    settings["pre_tokenizer"] = None
    tokenizer = _with_merges(Tokenizer.from_str(json.dumps(settings)), ("▁", "▁"), ("▁▁", "▁▁"), ("▁▁", "h"), ("▁", "\t"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace("\n", "\n")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _byte_level() -> Tokenizer:
    """As GPT-2 and Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return _with_merges(tokenizer, ("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("Ċ", "Ċ"), ("ĊĊ", "Ċ"), ("Ċ", "Ġ"), ("ĠĠ", "h"), (".", "Ċ"), ("ĉ", "h"))


def _with_merges(tokenizer: Tokenizer, *pairs: tuple[str, str]) -> Tokenizer:
    """With tokens of several spaces and line ends, as large vocabularies have them."""
    settings = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = settings["model"]["vocab"]
    for pair in pairs:
        for piece in (*pair, "".join(pair)):
            vocabulary.setdefault(piece, len(vocabulary))
    settings["model"]["merges"] = [list(pair) for pair in pairs] + settings["model"]["merges"]
    return Tokenizer.from_str(json.dumps(settings))


LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _llama3() -> Tokenizer:
    """Bytes behind a regular expression of its own, and digits by threes."""
    tokenizer = _byte_level()
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "metaspace": _metaspace_bpe,
    "legacy": _legacy_bpe,
    "unigram": _unigram,
    "byte-level": _byte_level,
    "llama3": _llama3,
}


def save_tokenizer(tokenizer: Tokenizer, folder: Path, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} if config is None else config
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session", params=list(TOKENIZERS))
def any_tokenizer_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(TOKENIZERS[request.param](), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(_legacy_bpe(), tmp_path_factory.mktemp("llama"))


@pytest.fixture
def with_settings(tokenizer_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A folder with the same tokenizer.json, and these contents in files of settings."""

    def make(**files: Any) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return folder

    return make


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows, or columns, as a canonical table."""

    def write(rows: list[dict[str, Any]] | dict[str, Any], name: str = "table") -> Path:
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows) if isinstance(rows, list) else pa.table(rows), path)
        return path

    return write


@pytest.fixture
def problems() -> Callable[[int], list[dict[str, str]]]:
    return generated_rows


def real_rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(params=["generated", "gsm8k"] if GSM8K.exists() else ["generated"])
def qa_rows(request: pytest.FixtureRequest) -> list[dict[str, str]]:
    """At least a thousand question-answer rows: generated ones, and real ones where they are."""
    return generated_rows(1_500) if request.param == "generated" else real_rows()
