"""Preparing rows at scale: clean, exact and near deduplication, template, split, Parquet.

    python -m benchmarks.preprocess [--rows 1000000] [--peer-rows 20000] [--repeats 3]

The peer does the same work with Hugging Face `datasets` (batched, all cores) and `datasketch`, on the first `--peer-rows` of the
same rows. `ratio` is rows a second, ours over the peer's (the median of its repeats); `memory_mb` is the peak of our process.
The rows say which of them nearly repeat which (see benchmarks/rows.py): `recall` is the share of those that were found,
`precision` the share of those dropped as near-duplicates that fell to a row of their own family.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.report import report

THRESHOLD = 0.8
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{question}\n\n### Response:\n"
)


def ours(table: Path, out: Path) -> dict[str, Any]:
    """What `llm_platform.data.preprocess` does, but for the tokens, which `benchmarks.tokenize` measures."""
    import numpy as np
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    from llm_platform.data.dedup import deduplicate
    from llm_platform.data.engine import LocalEngine
    from llm_platform.data.render import Template
    from llm_platform.data.split import SPLITS, assign_splits
    from llm_platform.data.texts import pieces, prepare_texts
    from llm_platform.specs import PreprocessingConfig

    config = PreprocessingConfig.model_validate(
        {
            "base_model": "benchmark/model",
            "near_dedup": True,
            "near_dedup_threshold": THRESHOLD,
            "template_mapping": {"instruction": "question", "output": "answer"},
        }
    )
    started = time.perf_counter()
    out.mkdir()
    texts = prepare_texts(pieces([table], config, [""]), config, out / "spill", LocalEngine(), lambda _: None)
    kept = deduplicate(texts.keys, config)
    chosen = np.flatnonzero(kept.mask)
    splits = np.full(len(texts), -1, dtype=np.int8)
    splits[chosen] = assign_splits(texts.keys, chosen, kept.near, texts.given[chosen], config.split, config.seed)
    schema = pa.schema([("row", pa.int64()), ("prompt", pa.string()), ("completion", pa.string())])
    files = [pq.ParquetWriter(out / f"{name}.parquet", schema, compression="zstd") for name in SPLITS]
    template = Template.load(config, None)
    for part, start, end in zip(texts.chosen(kept.mask), texts.starts[:-1], texts.starts[1:], strict=True):
        assigned = splits[start:end][part.mask]
        done = 0
        for frame in part.slices():
            rendered = frame.select("row").hstack(template.texts(frame)).to_arrow().cast(schema)
            for number, file in enumerate(files):
                file.write_table(rendered.filter(pa.array(assigned[done : done + frame.height] == number)))
            done += frame.height
    for file in files:
        file.close()
    seconds = time.perf_counter() - started

    truth = pl.read_parquet(table, columns=["family", "kind"])
    family, kind = (truth[name].to_numpy()[texts.keys.row] for name in ("family", "kind"))
    fell = ~kept.mask
    right = family[kept.stands] == family
    return {
        "rows": len(texts),
        "seconds": seconds,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "recall": float((fell & right & (kind == "near")).sum() / (kind == "near").sum()),
        "precision": float((fell & right & ~kept.equal).sum() / (fell & ~kept.equal).sum()),
        "exact_recall": float((fell & right & (kind == "equal")).sum() / (kind == "equal").sum()),
        "kept": int(kept.mask.sum()),
    }


CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")


def cleaned(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    text = CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return BLANK_LINES.sub("\n\n", text).strip()


def peer(table: Path, out: Path) -> dict[str, Any]:
    import datasets
    from datasketch import MinHash, MinHashLSH

    datasets.disable_caching()
    datasets.disable_progress_bars()
    cores = os.cpu_count() or 1
    started = time.perf_counter()
    data: Any = datasets.Dataset.from_parquet(str(table), cache_dir=str(out / "cache"))
    count = len(data)
    data = data.map(
        lambda batch: {name: [cleaned(text) for text in batch[name]] for name in ("question", "answer")}, batched=True, num_proc=cores
    )
    data = data.filter(lambda batch: [bool(q and a) for q, a in zip(batch["question"], batch["answer"], strict=True)], batched=True)

    def keys(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        texts = [" ".join(f"{q} {a}".lower().split()) for q, a in zip(batch["question"], batch["answer"], strict=True)]
        sketches = []
        for text in texts:
            words = text.split(" ")
            sketch = MinHash(num_perm=128)
            sketch.update_batch([" ".join(words[i : i + 3]).encode() for i in range(max(1, len(words) - 2))])
            sketches.append(sketch.hashvalues)
        return {"key": texts, "sketch": sketches}

    keyed = data.map(keys, batched=True, num_proc=cores).with_format("numpy", columns=["sketch"], output_all_columns=True)
    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    scheme: Any = MinHash(num_perm=1).scheme
    seen: set[str] = set()
    kept: list[int] = []
    for number, row in enumerate(keyed):
        sketch = MinHash(num_perm=128, hashvalues=row["sketch"], scheme=scheme)
        if row["key"] in seen or index.query(sketch):
            continue
        seen.add(row["key"])
        index.insert(str(number), sketch, check_duplication=False)
        kept.append(number)
    data = data.select(kept).map(
        lambda batch: {"prompt": [ALPACA.format(question=q) for q in batch["question"]], "completion": batch["answer"]},
        batched=True,
        num_proc=cores,
        remove_columns=data.column_names,
    )
    held = data.train_test_split(test_size=0.2, seed=42)
    halves = held["test"].train_test_split(test_size=0.5, seed=42)
    for name, part in (("train", held["train"]), ("validation", halves["train"]), ("test", halves["test"])):
        part.to_parquet(str(out / f"{name}.parquet"))
    return {"rows": count, "seconds": time.perf_counter() - started, "kept": len(kept)}


def in_process(who: str, table: Path, folder: Path) -> dict[str, Any]:
    """One run in a process of its own, whose memory and imports are nobody else's."""
    out = folder / who
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.preprocess", "--run", who, str(table), str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    shutil.rmtree(out, ignore_errors=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", nargs=3, metavar=("WHO", "TABLE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        who, table, out = options.run
        found = (ours if who == "ours" else peer)(Path(table), Path(out))
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table = folder / "rows.parquet"
        sample = folder / "sample.parquet"
        rows.write(table, options.rows)
        rows.write(sample, options.peer_rows)
        mine, theirs = [], []
        for _ in range(options.repeats):
            theirs.append(in_process("peer", sample, folder))
            mine.append(in_process("ours", table, folder))
    speed, peer_speed = (statistics.median(run["rows"] / run["seconds"] for run in runs) for runs in (mine, theirs))
    figures = {
        "ratio": round(speed / peer_speed, 2),
        "rows_per_second": round(speed),
        "peer_rows_per_second": round(peer_speed),
        "rows": options.rows,
        "peer_rows": options.peer_rows,
        "memory_mb": round(max(run["memory_mb"] for run in mine)),
        **{name: round(mine[0][name], 4) for name in ("recall", "precision", "exact_recall")},
    }
    report(
        "Preparing rows: clean, exact and near deduplication, template, split, Parquet",
        ["who", "rows", "seconds", "rows a second", "kept"],
        [
            [who, run["rows"], run["seconds"], run["rows"] / run["seconds"], run["kept"]]
            for who, runs in (("ours", mine), ("datasets + datasketch", theirs))
            for run in runs
        ],
        figures,
        ["polars", "rensa", "pyarrow", "datasets", "datasketch"],
    )


if __name__ == "__main__":
    main()
