"""Tokenizing and masking against Hugging Face `datasets`, with the same fast tokenizer and identical ids.

    python -m benchmarks.tokenize [--rows 100000] [--repeats 3]

Both start from the columns question and answer, write the alpaca prompt, tokenise, mask the prompt, and leave a file. The peer
is `Dataset.map(batched=True)` through transformers' fast tokenizer, in one process (whose tokenizer uses all cores) or in one per
core, whichever is faster; its file is its Arrow cache. Ours is Parquet. Two tokenizers are trained on the spot: BPE as
SentencePiece makes it (Llama 2), and byte-level BPE (Llama 3). Every measurement has a process and an empty cache of its own;
reading the rows and loading the tokenizer are not counted. `ratio` is the smaller of the two tokenizers' ratios of rows a second;
the ratios of processor time say what is left of it on a machine that does other things too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import report

VOCABULARY = 16_384
SPECIAL = ["<unk>", "<s>", "</s>"]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:\n"
)
BATCH = 8_192


class Measured(NamedTuple):
    seconds: float
    cpu_seconds: float
    """With those of child processes."""
    digest: str
    """Of ids, masks and row lengths."""


def sentencepiece(texts: list[str]) -> Any:
    """As Llama 2's: a normalizer writes spaces as U+2581, there is no pre-tokenizer, and bytes stand for unknown characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    pieces = [f"<0x{code:02X}>" for code in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL + pieces, show_progress=False)
    tokenizer.train_from_iterator((line for text in texts for line in text.split("\n")), trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIAL]
    content["pre_tokenizer"] = None
    result = Tokenizer.from_str(json.dumps(content))
    result.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    result.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return result


def byte_level(texts: list[str]) -> Any:
    """As Llama 3's."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def ours(table: Path, folder: Path, out: Path) -> Measured:
    import polars as pl
    import pyarrow.parquet as pq

    from llm_platform.data.encode import SCHEMA, encode_rows
    from llm_platform.data.engine import LocalEngine
    from llm_platform.data.render import Template
    from llm_platform.data.tokenize import PromptTokenizer
    from llm_platform.specs import PreprocessingConfig
    from llm_platform.training.rows import read_rows

    rows = pl.read_parquet(table).select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("row"),
        pl.lit(None, dtype=pl.String).alias("system"),
        pl.col("question").alias("instruction"),
        pl.lit("").alias("input"),
        pl.col("answer").alias("output"),
    )
    tokenizer = PromptTokenizer.from_folder(folder)
    config = PreprocessingConfig(base_model="benchmark/model", max_length=1_048_576)
    template = Template.load(config, tokenizer)
    started, cpu = time.perf_counter(), cpu_seconds()
    with pq.ParquetWriter(out / "ours.parquet", SCHEMA, compression="zstd") as file:
        for made in LocalEngine().map(lambda frame: encode_rows(frame, template, tokenizer, config), list(rows.iter_slices(BATCH))):
            file.write_table(made.table)
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    return Measured(seconds, cpu, read_rows(out / "ours.parquet").digest())


def peer(table: Path, folder: Path, out: Path, processes: int | None) -> Measured:
    import datasets
    import numpy as np
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    prompts = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(content), bos_token="<s>", eos_token="</s>")
    answers = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(content), bos_token="<s>", eos_token="</s>")
    if (normalizer := json.loads(content)["normalizer"]) is not None:  # an answer continues a text: no space is put before it
        rest = json.loads(content) | {"normalizer": {**normalizer, "normalizers": normalizer["normalizers"][1:]}}
        answers = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(rest)), bos_token="<s>", eos_token="</s>")
    bos, eos = [1], [2]

    def encode(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        before: Any = prompts([PROMPT.format(text) for text in batch["question"]], add_special_tokens=False, return_attention_mask=False)
        after: Any = answers(batch["answer"], add_special_tokens=False, return_attention_mask=False)
        ids: list[list[int]] = []
        masks: list[list[bool]] = []
        for prompt, answer in zip(before["input_ids"], after["input_ids"], strict=True):
            ids.append([*bos, *prompt, *answer, *eos])
            masks.append([False] * (len(prompt) + 1) + [True] * (len(answer) + 1))
        return {"input_ids": ids, "loss_mask": masks}

    types = datasets.Features({"input_ids": datasets.List(datasets.Value("int32")), "loss_mask": datasets.List(datasets.Value("bool"))})
    rows = datasets.Dataset.from_parquet(str(table), cache_dir=str(out), columns=["question", "answer"])
    started, cpu = time.perf_counter(), cpu_seconds()
    made: Any = rows.map(
        encode,
        batched=True,
        num_proc=processes,
        features=types,
        remove_columns=["question", "answer"],
        cache_file_name=str(out / f"peer-{processes}.arrow"),
    )
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    columns = [made.data.column(name).combine_chunks() for name in ("input_ids", "loss_mask")]
    arrays = [column.flatten().to_numpy(zero_copy_only=False) for column in columns]
    return Measured(seconds, cpu, _digest(*arrays, columns[0].offsets.to_numpy().astype(np.int64)))


def cpu_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _digest(*arrays: Any) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(array.tobytes())
    return found.hexdigest()


def apart(function: Callable[..., Measured], *args: Any) -> Measured:
    """The result of a function in a new process, in a folder of its own."""
    with tempfile.TemporaryDirectory() as out, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        table, folder, *rest = args
        return pool.submit(function, table, folder, Path(out), *rest).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3, help="rounds of one measurement each, in turn")
    arguments = parser.parse_args()
    from benchmarks import rows

    table_rows: list[tuple[object, ...]] = []
    figures: dict[str, object] = {}
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        table = Path(name) / "rows.parquet"
        rows.write(table, arguments.rows)
        texts = [text for problem in rows.problems() for text in problem]
        for kind, train in {"sentencepiece": sentencepiece, "byte_level": byte_level}.items():
            folder = Path(name) / kind
            folder.mkdir()
            train(texts).save(str(folder / "tokenizer.json"))
            (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
            sides: dict[str, list[Measured]] = {"ours": [], "datasets.map": [], "datasets.map, processes": []}
            for _ in range(arguments.repeats):
                sides["ours"].append(apart(ours, table, folder))
                sides["datasets.map"].append(apart(peer, table, folder, None))
                sides["datasets.map, processes"].append(apart(peer, table, folder, os.cpu_count()))
            digests = {run.digest for runs in sides.values() for run in runs}
            if len(digests) != 1:
                raise SystemExit(f"{kind}: ids or masks differ: {sides}")
            seconds = {side: statistics.median(run.seconds for run in runs) for side, runs in sides.items()}
            cpu = {side: statistics.median(run.cpu_seconds for run in runs) for side, runs in sides.items()}
            best = min(("datasets.map", "datasets.map, processes"), key=lambda side: seconds[side])
            ratios.append(seconds[best] / seconds["ours"])
            figures |= {
                f"{kind}_ratio": round(ratios[-1], 2),
                f"{kind}_cpu_ratio": round(cpu[best] / cpu["ours"], 2),
                f"{kind}_seconds": round(seconds["ours"], 2),
                f"{kind}_peer_seconds": round(seconds[best], 2),
            }
            for side in sides:
                table_rows.append((f"{kind}, {side}", seconds[side], cpu[side], arguments.rows / seconds[side]))
    report(
        f"Tokenizing {arguments.rows:,} rows, identical ids; median of {arguments.repeats}",
        ["tokenizer and side", "seconds", "CPU seconds", "rows/s"],
        table_rows,
        {"ratio": round(min(ratios), 2), **figures, "rows": arguments.rows},
        ["datasets", "tokenizers", "transformers", "polars"],
    )


if __name__ == "__main__":
    main()
