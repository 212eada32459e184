"""Fine-tuning on a CPU against TRL's SFTTrainer, on the same rows in the same order.

    python -m benchmarks.training [--rows 160] [--repeats 3]

LoRA of rank 16 on all linear layers, float32, batch 8, two threads, one epoch. Each run is a process of its own; timed is the whole
call after the imports: loading the model, training, saving the adapter. Tokens a second count no padding. The peer runs unpacked
and packed, with its own order of the rows, and its better mode counts (the other one is not repeated where it is far behind); once
more it runs unpacked in our order, for the loss: `loss_difference` is the relative difference of the mean training losses over the
same samples in the same order. `ratio` is ours over the peer's for a Llama of 4 layers, width 256 and a vocabulary of 32,000;
`ratio_demo` the same for a model of the demo's size (vocabulary 1,024). Full fine-tuning is measured the same way, QLoRA on our side
alone, and LoRA once with compiled layers: `compiled` is the speed of its steps in the second half of the run, when all is compiled,
over that without.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.report import report

BATCH = 8
THREADS = 2
FAR_BEHIND = 1.25
OURS, COMPILED = "ours", "ours, compiled"
MODELS: dict[str, dict[str, Any]] = {
    "wide vocabulary": {"vocab_size": 32_000, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4},
    "demo": {"vocab_size": 1_024, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4},
}


def config(method: str, compile: bool = False) -> Any:
    from llm_platform.specs import TrainingConfig

    return TrainingConfig.model_validate(
        {
            "method": method,
            "batch_size": BATCH,
            "learning_rate": 1e-4,
            "checkpoint_every": 10**6,
            "warmup_ratio": 0.0,
            "lr_scheduler": "constant",
            "compile": compile,
        }
        | ({} if method == "full" else {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0})
    )


def make_base(folder: Path, shape: dict[str, Any]) -> None:
    """A Llama with random weights and a tokenizer of its vocabulary, trained on the rows."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # pyright: ignore
    alphabet = [f"<0x{code:02X}>" for code in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=shape["vocab_size"], special_tokens=[*special, *alphabet], max_token_length=12, show_progress=False
    )
    tokenizer.train_from_iterator([word for pair in rows.problems()[:2000] for text in pair for word in text.split(" ")], trainer)
    model = LlamaForCausalLM(
        LlamaConfig(
            **shape,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2_048,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"})
    )


def make_splits(base: Path, folder: Path, count: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from llm_platform.data.preprocess import preprocess
    from llm_platform.reporting import ListReporter
    from llm_platform.specs import PreprocessingConfig

    table = folder.with_suffix(".parquet")
    pq.write_table(
        pa.table({"question": [q for q, _ in rows.problems()[:count]], "answer": [a for _, a in rows.problems()[:count]]}), table
    )
    split = {"train": 1.0, "validation": 0.0, "test": 0.0}
    settings = PreprocessingConfig.model_validate({"base_model": "benchmark/base", "split": split, "dedup": False, "max_length": 1_024})
    preprocess([table], settings, base, folder, ListReporter())


def ours(who: str, method: str, base: Path, splits: Path, out: Path) -> dict[str, Any]:
    import torch

    from llm_platform.reporting import ListReporter
    from llm_platform.training.train import train

    torch.set_num_threads(THREADS)
    reporter = ListReporter()
    started = time.perf_counter()
    settings = config(method, compile=who == COMPILED)
    result = train(settings, base, splits, out, out.with_suffix(".work"), reporter, base_name="benchmark/base", threads=THREADS)
    seconds = time.perf_counter() - started
    metrics = [data for level, _, data in reporter.lines if level == "METRIC" and "loss" in data]
    return {
        "seconds": seconds,
        "tokens": result.tokens,
        "loss": statistics.mean(data["loss"] for data in metrics),
        "steps": result.steps,
        "steady": statistics.median(data["tokens_per_second"] for data in metrics[len(metrics) // 2 :]),
    }


def peer(who: str, method: str, base: Path, splits: Path, out: Path) -> dict[str, Any]:
    import warnings

    import datasets
    import numpy as np
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from llm_platform.training.batches import Schedule
    from llm_platform.training.rows import read_rows

    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    datasets.disable_progress_bars()
    found = read_rows(splits / "train.parquet")
    same = who == "TRL, our order"
    order = (
        np.concatenate([batch for step in Schedule(found.lengths, BATCH, 1, 42).epoch(0) for batch in step]) if same else range(len(found))
    )
    data = datasets.Dataset.from_dict(
        {
            "input_ids": [found.tokens(index).tolist() for index in order],
            "completion_mask": [found.trained(index).astype(int).tolist() for index in order],
        }
    )
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    trainer = SFTTrainer(
        model,
        SFTConfig(
            output_dir=str(out),
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_length=1_024,
            packing=who == "TRL packed",
            completion_only_loss=True,  # by itself it looks for a mask only in rows that it tokenises
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            train_sampling_strategy="sequential" if same else "random",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataset_num_proc=None,
        ),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=None
        if method == "full"
        else LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(str(out))
    seconds = time.perf_counter() - started
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": seconds, "tokens": int(found.lengths.sum()), "loss": statistics.mean(losses), "steps": trainer.state.global_step}


def one(who: str, method: str, base: Path, splits: Path, folder: Path) -> dict[str, Any]:
    out = folder / "out"
    for path in (out, out.with_suffix(".work")):
        shutil.rmtree(path, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.training", "--run", who, method, str(base), str(splits), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(THREADS)})
    if done.returncode:
        raise SystemExit(f"{who} {method} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row(model: str, method: str, who: str, run: dict[str, Any]) -> list[object]:
    speed = run.get("speed", run["tokens"] / run["seconds"])
    return [f"{model}, {method}", who, speed, run["seconds"], run["steps"], round(run["loss"], 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", nargs=5, metavar=("WHO", "METHOD", "BASE", "SPLITS", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        who, method, *paths = options.run
        base, splits, out = map(Path, paths)
        found = ours(who, method, base, splits, out) if who in (OURS, COMPILED) else peer(who, method, base, splits, out)
        print(json.dumps(found))
        return
    lines: list[list[object]] = []
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, shape in MODELS.items():
            base, splits = folder / name.replace(" ", "-"), folder / f"{name.replace(' ', '-')}-splits"
            make_base(base, shape)
            make_splits(base, splits, options.rows)
            for method in ("lora", "full", "qlora") if name == "wide vocabulary" else ("lora",):
                sides = [OURS] if method == "qlora" else [OURS, "TRL", "TRL packed"]
                runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
                repeated = sides
                for _ in range(options.repeats if method == "lora" else 1):
                    for side in repeated:
                        runs[side].append(one(side, method, base, splits, folder))
                    best = min((run[0]["seconds"] for side, run in runs.items() if side != OURS), default=0.0)
                    repeated = [side for side in sides if side == OURS or runs[side][0]["seconds"] < FAR_BEHIND * best]
                speeds = {side: statistics.median(run["tokens"] / run["seconds"] for run in found) for side, found in runs.items()}
                lines += [row(name, method, side, runs[side][0] | {"speed": speeds[side]}) for side in sides]
                if name == "wide vocabulary" and method == "lora":
                    compiled = one(COMPILED, method, base, splits, folder)
                    lines.append(row(name, method, COMPILED, compiled))
                    figures["compiled"] = round(compiled["steady"] / statistics.median(run["steady"] for run in runs[OURS]), 2)
                if method != "qlora":
                    again = one("TRL, our order", method, base, splits, folder)
                    lines.append(row(name, method, "TRL, our order", again))
                    ratios[f"{name}, {method}"] = speeds[OURS] / max(speeds["TRL"], speeds["TRL packed"])
                    figures[f"loss_difference {name}, {method}"] = round(abs(runs[OURS][0]["loss"] / again["loss"] - 1), 5)
    figures = {
        "ratio": round(ratios["wide vocabulary, lora"], 2),
        "ratio_demo": round(ratios["demo, lora"], 2),
        "ratio_full": round(ratios["wide vocabulary, full"], 2),
        **figures,
        "rows": options.rows,
        "repeats": options.repeats,
    }
    report(
        "Fine-tuning on a CPU, batch 8, float32, one epoch",
        ["model and method", "who", "tokens a second", "seconds", "steps", "mean loss"],
        lines,
        figures,
        ["torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes"],
    )


if __name__ == "__main__":
    main()
