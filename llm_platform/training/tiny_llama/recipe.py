"""What the model is made of: the constants, and a hash of everything that determines the result."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

MODEL_NAME = "llm-platform/tiny-llama"
# The files whose text decides what the model's folder holds. The demo's phrasings are not among them: no model sees
# them before it is tuned.
SOURCES = ("build.py", "card.py", "corpus.py", "pretrain.py", "recipe.py", "tokenizer.py", "topics.py", "words.py")


@dataclass(frozen=True)
class Recipe:
    """The model's shape (all sizes multiples of 64, or 4-bit generation fails) and its training."""

    seed: int = 20261
    vocabulary: int = 1024
    hidden: int = 128
    intermediate: int = 384
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    context: int = 2048  # tokens
    tokenizer_documents: int = 4000
    steps: int = 500  # optimizer steps
    tokens_per_step: int = 2048
    block: int = 256  # tokens in most training blocks
    long_block: int = 2048  # tokens in the others, so that the whole context works
    long_every: int = 12  # steps from one long block to the next
    matrix_rate: float = 0.02  # the peak learning rate of Muon, for the layers' matrices
    other_rate: float = 4e-3  # that of AdamW, for the embeddings and norms
    warmup: int = 30  # optimizer steps
    threads: int = 2  # fixed, since the order of sums, and so the bits, depend on it


RECIPE = Recipe()


def recipe_hash(recipe: Recipe = RECIPE) -> str:
    """12 hex digits that change when a constant or the source of a generator changes."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    for name in SOURCES:
        source = (Path(__file__).parent / name).read_bytes().replace(b"\r\n", b"\n")
        digest.update(name.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()[:12]
