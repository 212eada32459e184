"""Rows for the data benchmarks: word problems in any number, among which the duplicates and near-duplicates are known.

Sentences come from GSM8K, where it lies beside the project, else from a generator; each new row is a random choice of them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k" / "train.jsonl"
GROUP_ROWS = 65_536
NEAR, EQUAL = 0.3, 0.1
"""Shares of the rows that nearly repeat, and that repeat, an earlier one."""
EDITS_PER_WORD = 0.02
"""So few words are changed that the similarity of word trigrams stays above 0.85."""


@dataclass(frozen=True)
class Row:
    """`family` is the number of the row that this one repeats, its own if it repeats none."""

    question: str
    answer: str
    family: int
    kind: str


def problems() -> list[tuple[str, str]]:
    """Real questions and answers, or generated ones of about their length."""
    if GSM8K.is_file():
        rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
        return [(row["question"], row["answer"]) for row in rows]
    pick = random.Random(0)
    words = ["".join(pick.choices("abcdefghijklmnopqrstuvwxyz", k=pick.randint(2, 9))) for _ in range(5_000)]

    def text(sentences: int) -> str:
        return " ".join(f"{' '.join(pick.choices(words, k=pick.randint(8, 16))).capitalize()}." for _ in range(sentences))

    return [(text(4), text(4)) for _ in range(7_473)]


def generated(count: int, seed: int = 0) -> Iterator[Row]:
    """`count` rows, the same for the same seed."""
    pick = random.Random(seed)
    real = problems()
    asked = [sentence for question, _ in real for sentence in question.split(". ")]
    told = [line for _, answer in real for line in answer.split("\n")]
    words = sorted({word for question, _ in real for word in question.split()})
    originals: list[Row] = []
    for number in range(count):
        draw = pick.random()
        if originals and draw < NEAR:
            source = pick.choice(originals)
            yield Row(_edited(source.question, words, pick), _edited(source.answer, words, pick), source.family, "near")
        elif originals and draw < NEAR + EQUAL:
            source = pick.choice(originals)
            yield Row(source.question.upper(), f"  {source.answer} ", source.family, "equal")
        else:
            row = Row(". ".join(pick.sample(asked, 4)), "\n".join(pick.sample(told, 5)), number, "new")
            originals.append(row)
            if len(originals) > 100_000:
                originals[pick.randrange(len(originals))] = originals.pop()
            yield row


def _edited(text: str, words: list[str], pick: random.Random) -> str:
    parts = text.split(" ")
    for _ in range(max(1, int(len(parts) * EDITS_PER_WORD))):
        parts[pick.randrange(len(parts))] = pick.choice(words)
    return " ".join(parts)


def write(path: Path, count: int, seed: int = 0) -> None:
    """A table of the columns question, answer, family and kind."""
    schema = pa.schema([("question", pa.string()), ("answer", pa.string()), ("family", pa.int64()), ("kind", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        waiting: list[Row] = []
        for row in generated(count, seed):
            waiting.append(row)
            if len(waiting) == GROUP_ROWS:
                file.write_table(_table(waiting, schema))
                waiting = []
        if waiting:
            file.write_table(_table(waiting, schema))


def _table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    return pa.table([[getattr(row, name) for row in rows] for name in schema.names], schema=schema)
