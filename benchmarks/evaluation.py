"""Evaluation against a plain loop over transformers' pipeline("text-generation"), on the same rows of the demo, on a CPU; and whether
GGUF files of the same model answer as it does.

    python -m benchmarks.evaluation [--rows 1000] [--repeats 3] [--keep FOLDER]

The model is the demo's: `llm-platform/tiny-llama`, tuned as the demo does; the rows are of its held-out phrasings. Ours is the
whole evaluation of one model: loading base and adapter, the answers, the loss, all scores with their intervals, the files. The peer
loads the same weights merged, which is faster for it, and makes the answers alone, one prompt after the other; once more it is given
our batch size. Both are greedy, in float32, on two threads, each run in a process of its own, taking turns; imports are not timed.
`ratio` is our rows a second over the loop's, `same_answers` the share of rows that both answer with the same text.

`gguf_f16_equal` and `gguf_q8_0_equal` are the shares of the rows that llama.cpp answers with the very tokens that transformers answers
with, greedily, as the export's gate measures it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import report

THREADS = 2
BATCH = 32
MAX_NEW_TOKENS = 24
OURS, LOOP, BATCHED, GGUF = "evaluation", "pipeline, one by one", f"pipeline, batches of {BATCH}", "gguf"
HELD_OUT = Path("held-out", "test.parquet")
"""Lies where an export looks for the test split."""


def prepare(folder: Path, count: int) -> None:
    """Makes the folders `adapter` and `merged`, where they are not there yet, and `HELD_OUT`."""
    import polars as pl

    from llm_platform.data.preprocess import prepare_rows, preprocess
    from llm_platform.demo import pipeline
    from llm_platform.export.export import export_merged
    from llm_platform.reporting import ListReporter
    from llm_platform.specs import PreprocessingConfig, TrainingConfig
    from llm_platform.training.tiny_llama import MODEL_NAME, demo_rows
    from llm_platform.training.train import train

    base, reporter = base_folder(), ListReporter()
    configs = {node["agent_name"]: node["config"] for node in pipeline.pipeline("ds_1", "ds_2")["nodes"]}
    prepared = PreprocessingConfig.model_validate(configs["preprocessing"])
    table = folder / "table.parquet"
    if not (folder / "merged").is_dir():
        pl.DataFrame(demo_rows(pipeline.TRAINING_ROWS, pipeline.SEED)).write_parquet(table)
        preprocess([table], prepared, base, folder / "splits", reporter)
        config = TrainingConfig.model_validate(configs["training"])
        train(config, base, folder / "splits", folder / "adapter", folder / "work", reporter, base_name=MODEL_NAME, threads=THREADS)
        export_merged(base, folder / "adapter", folder / "merged", reporter)
    pl.DataFrame(demo_rows(count, pipeline.SEED, held_out=True)).write_parquet(table)
    prepare_rows(table, prepared, base, folder / HELD_OUT, reporter)


def base_folder() -> Path:
    from llm_platform.reporting import ConsoleReporter
    from llm_platform.settings import Settings
    from llm_platform.training import base_model
    from llm_platform.training.tiny_llama import MODEL_NAME

    return base_model.resolve(MODEL_NAME, Settings(), ConsoleReporter())


def ours(folder: Path) -> dict[str, Any]:
    import polars as pl

    from llm_platform.evaluation.evaluate import evaluate
    from llm_platform.reporting import ListReporter
    from llm_platform.specs import EvaluationConfig

    base, out = base_folder(), folder / "evaluation"
    config = EvaluationConfig(max_samples=10**6, max_new_tokens=MAX_NEW_TOKENS, batch_size=BATCH, include_base=False)
    started = time.perf_counter()
    result = evaluate(config, base, folder / "adapter", folder / HELD_OUT, out, ListReporter(), threads=THREADS)
    seconds = time.perf_counter() - started
    answers = pl.read_parquet(out / "examples.parquet")["tuned_answer"].to_list()
    return {"seconds": seconds, "answers": answers, "accuracy": result.tuned["accuracy"], "eos_rate": result.tuned["eos_rate"]}


def peer(folder: Path, batch_size: int) -> dict[str, Any]:
    import polars as pl
    import torch
    import transformers

    from llm_platform.evaluation.score import is_correct
    from llm_platform.training.rows import read_rows

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(THREADS)
    table = pl.read_parquet(folder / HELD_OUT, columns=["prompt", "completion"])
    prompts = table["prompt"].to_list()
    started = time.perf_counter()
    pipe: Any = transformers.pipeline("text-generation", model=str(folder / "merged"), dtype=torch.float32, device="cpu")
    pipe.tokenizer.padding_side = "left"
    settings = {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS, "return_full_text": False}
    one_by_one = batch_size == 1
    found = [pipe(prompt, **settings) for prompt in prompts] if one_by_one else pipe(prompts, batch_size=batch_size, **settings)
    seconds = time.perf_counter() - started
    rows = read_rows(folder / HELD_OUT)
    if any(pipe.tokenizer(prompt).input_ids != rows.prompt(index).tolist() for index, prompt in enumerate(prompts)):
        raise SystemExit("the pipeline's tokenizer makes other tokens of the prompts, so nothing would be compared")
    answers = [item[0]["generated_text"].strip() for item in found]
    right = [is_correct(*pair) for pair in zip(answers, table["completion"], strict=True)]
    return {"seconds": seconds, "answers": answers, "accuracy": statistics.mean(right)}


def gguf(folder: Path) -> dict[str, Any]:
    """The share of equal answers by quantization."""
    import torch

    from llm_platform.demo import pipeline
    from llm_platform.export.exporter import Exporter
    from llm_platform.export.gate import reference
    from llm_platform.export.prompting import Prompting
    from llm_platform.reporting import ListReporter
    from llm_platform.specs import ExportConfig, GateConfig, PreprocessingConfig

    torch.set_num_threads(THREADS)
    configs = {node["agent_name"]: node["config"] for node in pipeline.pipeline("ds_1", "ds_2")["nodes"]}
    base, reporter = base_folder(), ListReporter()
    gate = GateConfig(rows=1000, max_new_tokens=MAX_NEW_TOKENS)
    config = ExportConfig(formats=["gguf"], gguf_quantization=["f16", "q8_0"], gate=gate)
    prompting = Prompting.of(PreprocessingConfig.model_validate(configs["preprocessing"]), base)
    cpu, adapter = torch.device("cpu"), folder / "adapter"
    known = reference(gate, base, adapter, (folder / HELD_OUT).parent, prompting, cpu, torch.float32, reporter)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        _, gates = Exporter(config, base, adapter, prompting, known, Path(out), reporter, THREADS).make("gguf")
    return {kind: {"equal": gates[f"gguf.{kind}"].agreement, "rows": gates[f"gguf.{kind}"].rows} for kind in config.gguf_quantization}


def one(who: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.evaluation", "--run", who, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(THREADS)})
    if done.returncode:
        raise SystemExit(f"{who} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, repeats: int) -> None:
    runs: dict[str, list[dict[str, Any]]] = {OURS: [], LOOP: [], BATCHED: []}
    for number in range(repeats):
        for who in (OURS, LOOP) if number else runs:
            runs[who].append(one(who, folder))
    files = one(GGUF, folder)
    count = len(runs[OURS][0]["answers"])
    speeds = {who: count / statistics.median(run["seconds"] for run in found) for who, found in runs.items()}
    answers = {who: found[0]["answers"] for who, found in runs.items()}
    same = {who: statistics.mean(a == b for a, b in zip(answers[OURS], said, strict=True)) for who, said in answers.items()}
    table = [
        [who, speeds[who], count / speeds[who], len(found), f"{found[0]['accuracy']:.3f}", f"{same[who]:.3f}"]
        for who, found in runs.items()
    ]
    figures = {
        "ratio": round(speeds[OURS] / speeds[LOOP], 2),
        "ratio_batched": round(speeds[OURS] / speeds[BATCHED], 2),
        "same_answers": round(same[LOOP], 4),
        "eos_rate": round(runs[OURS][0]["eos_rate"], 4),
        "gguf_f16_equal": files["f16"]["equal"],
        "gguf_q8_0_equal": files["q8_0"]["equal"],
        "gguf_rows": files["f16"]["rows"],
        "peak_memory_mb": round(max(run["peak_memory_mb"] for run in runs[OURS])),
        "peak_memory_mb_pipeline": round(max(run["peak_memory_mb"] for run in runs[LOOP])),
        "rows": count,
        "repeats": repeats,
    }
    columns = ["who", "rows a second", "seconds", "runs", "accuracy", "answers as ours"]
    report("Evaluation of the tuned demo model on a CPU", columns, table, figures, ["torch", "transformers", "peft", "xllamacpp"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the tuned model is kept, for the next run")
    parser.add_argument("--run", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        who, folder = options.run[0], Path(options.run[1])
        found = {OURS: ours, GGUF: gguf}[who](folder) if who in (OURS, GGUF) else peer(folder, 1 if who == LOOP else BATCH)
        print(json.dumps({**found, "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, options.rows)
        measure(folder, options.repeats)


if __name__ == "__main__":
    main()
