"""Fine-tuning on a GPU against TRL's SFTTrainer, at the shape of Llama 8B with random weights.

    make bench-gpu        (python -m benchmarks.gpu [--steps 16] [--sequences 2] [--compile])

bfloat16 LoRA of rank 16 on all linear layers, rows of 1,024 tokens packed to sequences of 4,096, every token trained. Each run is a
process of its own; tokens a second are the median over the steps after the first few. `matrix_share` is the arithmetic of those
tokens (4 operations a weight and token, attention not counted) over the measured rate of one large bfloat16 matrix product. TRL has
the same model, rows, attention and gradient checkpointing, and Liger's kernels where they are installed. QLoRA runs at 2,048 with
checkpointed gradients, and LoRA once more the same way, for `qlora_speed`. With --compile, `compiled` is the speed of LoRA with compiled
layers over that without.

Without a GPU everything runs at a toy size on the CPU, in float32: that shows that the benchmark works, and measures nothing of a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import report

NEEDS_GPU = True
GOALS = {"tokens_per_second on an H200": 16_000, "ratio": 1.25, "qlora_gib": 7, "qlora_speed": 0.8}
LLAMA_8B: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 4_096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
TOY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ROWS_A_SEQUENCE = 4
WARM_UP = 4
"""Steps that are not counted: kernels are compiled and chosen, and memory is taken, in the first ones."""


def make_base(folder: Path, shape: dict[str, Any], length: int) -> None:
    """A Llama with random weights in bfloat16, and a tokenizer that nothing is tokenized with."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=2 * length, bos_token_id=1, eos_token_id=2, pad_token_id=0))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()  # the processes that train need it
    Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"})
    )


def make_splits(folder: Path, vocabulary: int, length: int, count: int) -> None:
    """`count` rows that fill a sequence of `length` by `ROWS_A_SEQUENCE`, all of whose tokens are trained."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = length // ROWS_A_SEQUENCE
    ids = np.random.default_rng(0).integers(3, vocabulary, (count, size))
    ids[:, -1] = 2
    schema = pa.schema([("row", pa.int64()), ("input_ids", pa.list_(pa.int32())), ("loss_mask", pa.list_(pa.bool_()))])
    folder.mkdir()
    for name, rows in ("train", ids), ("validation", ids[:0]):
        table = {"row": list(range(len(rows))), "input_ids": rows.tolist(), "loss_mask": [[True] * size] * len(rows)}
        pq.write_table(pa.table(table, schema=schema), folder / f"{name}.parquet")


def matrix_rate() -> float:
    """Operations a second of a large matrix product, in bfloat16 on a GPU and float32 on a CPU; the best of some."""
    import torch

    gpu = torch.cuda.is_available()
    size = 8_192 if gpu else 512
    options: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16} if gpu else {}
    one, other = (torch.randn(size, size, **options) for _ in range(2))
    best = 0.0
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(10):
            torch.mm(one, other)
        if gpu:
            torch.cuda.synchronize()
        best = max(best, 10 * 2 * size**3 / (time.perf_counter() - started))
    return best


def ours(run: dict[str, Any], base: Path, splits: Path, out: Path) -> dict[str, Any]:
    from llm_platform.reporting import ListReporter
    from llm_platform.specs import TrainingConfig
    from llm_platform.training.train import train

    config = TrainingConfig.model_validate(
        {
            "method": run["method"],
            "batch_size": ROWS_A_SEQUENCE * run["sequences"],
            "packing": True,
            "max_steps": run["steps"],
            "lora_dropout": 0.0,
            "gradient_checkpointing": run["checkpointing"],
            "compile": run["compile"],
        }
    )
    reporter = ListReporter()
    result = train(config, base, splits, out, out.with_suffix(".work"), reporter, base_name="benchmark/base")
    speeds = [data["tokens_per_second"] for level, _, data in reporter.lines if level == "METRIC" and "loss" in data]
    on = run["checkpointing"] == "on" or any("Gradient checkpointing is on" in message for _, message, _ in reporter.lines)
    return {"speed": statistics.median(speeds[WARM_UP:]), "gib": result.peak_memory_mb / 1024, "checkpointing": "on" if on else "off"}


def peer(run: dict[str, Any], base: Path, splits: Path, out: Path) -> dict[str, Any]:
    import warnings

    import datasets
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from llm_platform.training import attention
    from llm_platform.training.device import peak_memory_mb
    from llm_platform.training.rows import read_rows

    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    dtype = torch.bfloat16 if gpu else torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    attention.set_for_training(model, packing=True, device=device, dtype=dtype)
    rows = read_rows(splits / "train.parquet")
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if gpu:
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer = SFTTrainer(
        model,
        SFTConfig(
            output_dir=str(out),
            per_device_train_batch_size=run["sequences"],
            max_steps=run["steps"],
            max_length=run["length"],
            packing=True,
            bf16=gpu,
            use_cpu=not gpu,
            gradient_checkpointing=run["checkpointing"] == "on",
            gradient_checkpointing_kwargs={"use_reentrant": False},
            use_liger_kernel=liger() is not None,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_dict({"input_ids": [rows.tokens(index).tolist() for index in range(len(rows))]}),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )
    trainer.train()
    seconds = [later - earlier for earlier, later in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]
    tokens = run["sequences"] * run["length"]
    return {"speed": tokens / statistics.median(seconds), "gib": peak_memory_mb(device) / 1024, "checkpointing": run["checkpointing"]}


def liger() -> str | None:
    """The version of Liger's kernels, if they are installed."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    from importlib.metadata import version

    return version("liger-kernel")


def one(run: dict[str, Any], base: Path, splits: Path, folder: Path) -> dict[str, Any]:
    """A run in a process of its own, so that its peak of memory is its own."""
    out = folder / "out"
    for path in (out, out.with_suffix(".work")):
        shutil.rmtree(path, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "--run", json.dumps(run), str(base), str(splits), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{run} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace, device: str, *, toy: bool) -> None:
    from llm_platform.specs import TrainingConfig
    from llm_platform.training import estimate

    shape, length = (TOY, 256) if toy else (LLAMA_8B, 4_096)
    steps = WARM_UP + (4 if toy else options.steps)
    sequences = 1 if toy else options.sequences
    common = {"method": "lora", "length": length, "sequences": sequences, "steps": steps, "checkpointing": "auto", "compile": False}
    short = {**common, "length": length // 2, "sequences": 1, "checkpointing": "on"}
    rate = matrix_rate()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base, long_splits, short_splits = folder / "base", folder / "long", folder / "short"
        make_base(base, shape, length)
        make_splits(long_splits, shape["vocab_size"], length, ROWS_A_SEQUENCE * sequences * steps)
        make_splits(short_splits, shape["vocab_size"], length // 2, ROWS_A_SEQUENCE * steps)
        lora = one({**common, "who": "ours"}, base, long_splits, folder)
        compiled = one({**common, "who": "ours", "compile": True}, base, long_splits, folder) if options.compile else None
        trl = one({**common, "who": "TRL", "checkpointing": lora["checkpointing"]}, base, long_splits, folder)
        qlora = one({**short, "who": "ours", "method": "qlora"}, base, short_splits, folder)
        lora_short = one({**short, "who": "ours"}, base, short_splits, folder)
        work = estimate.operations(estimate.model_shape(base), TrainingConfig().method, 1, 1)
    runs = {
        f"LoRA, {length}": ("ours", lora),
        f"LoRA, {length} ": (f"TRL{' with Liger' if liger() else ', no Liger'}", trl),
        f"QLoRA, {length // 2}": ("ours", qlora),
        f"LoRA, {length // 2}": ("ours", lora_short),
    }
    figures = {
        "toy": toy,
        "device": device,
        "tokens_per_second": round(lora["speed"], 1),
        "ratio": round(lora["speed"] / trl["speed"], 2),
        "matrix_rate": round(rate / 1e12, 3),
        "matrix_share": round(lora["speed"] * work / rate, 3),
        "gib": round(lora["gib"], 2),
        "qlora_gib": round(qlora["gib"], 2),
        "qlora_speed": round(qlora["speed"] / lora_short["speed"], 2),
        "liger": liger(),
    }
    if not toy:
        figures["goals"] = GOALS
    if compiled is not None:
        runs[f"LoRA compiled, {length}"] = ("ours", compiled)
        figures["compiled"] = round(compiled["speed"] / lora["speed"], 2)
    title = f"TOY SIZE, no GPU: this says nothing about one. Llama of {shape['num_hidden_layers']} layers" if toy else "Llama 8B shape"
    report(
        f"{title}, packed, on {device}",
        ["method, sequence", "who", "tokens a second", "peak GiB", "gradient checkpointing"],
        [[name.strip(), who, run["speed"], run["gib"], run["checkpointing"]] for name, (who, run) in runs.items()],
        figures,
        ["torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16, help="steps that are counted")
    parser.add_argument("--sequences", type=int, default=2, help="sequences of 4,096 a step")
    parser.add_argument("--compile", action="store_true", help="run LoRA with compiled layers too")
    parser.add_argument("--run", nargs=4, metavar=("RUN", "BASE", "SPLITS", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run, (base, splits, out) = json.loads(options.run[0]), map(Path, options.run[1:])
        print(json.dumps((ours if run["who"] == "ours" else peer)(run, base, splits, out)))
        return
    import torch

    gpu = torch.cuda.is_available()
    if not gpu:
        print("There is no GPU here: everything runs at a toy size on the CPU, which measures nothing of a GPU.")
        print("Its steps take milliseconds: speeds and ratios differ severalfold from run to run.", flush=True)
    measure(options, torch.cuda.get_device_name() if gpu else "cpu", toy=not gpu)


if __name__ == "__main__":
    main()
