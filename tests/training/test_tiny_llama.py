"""The base model that is built here, and the demo data."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llm_platform.training.tiny_llama import MODEL_NAME, RECIPE, demo_rows, ensure, recipe_hash
from llm_platform.training.tiny_llama.corpus import documents
from llm_platform.training.tiny_llama.phrases import HELD_OUT, MATTERS, TRAIN

# The real tokenizer and shape, but next to no training.
SMALL = replace(RECIPE, steps=4, long_every=3, tokens_per_step=512, long_block=512)
TEXTS = (
    "", "Hello", " leading", "two  spaces ", "line\nline\n\n", "\ttab\r\n", "Team: Billing | Priority: high",
    "naïve café, 12.50 €", "日本語のテキスト", "🙂👩‍👩‍👧", "\u0000\u0007\u200b\ufeff", "def f(x):\n    return {'a': [1, 2]}",
    "العربية", "𝔘𝔫𝔦", "a\u0301", "#" * 300,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure(tmp_path_factory.mktemp("cache"), recipe=SMALL)


def test_build_is_complete_and_deterministic(folder: Path, tmp_path: Path) -> None:
    """A second build gives the same bytes, reports its progress, and leaves nothing but the folder."""
    import torch

    heard: list[tuple[str, int, int]] = []
    torch.manual_seed(1)
    threads, expected = torch.get_num_threads(), torch.rand(1)
    torch.manual_seed(1)
    again = ensure(tmp_path, lambda *report: heard.append(report), SMALL)
    assert torch.equal(torch.rand(1), expected) and torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert again.name == folder.name == f"tiny-llama-{recipe_hash(SMALL)}"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted([
        "README.md", "config.json", "generation_config.json", "model.safetensors", "special_tokens_map.json",
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    ])  # fmt: skip
    for name in names:
        assert _digest(again / name) == _digest(folder / name), name
    assert ("pre-training", 4, 4) in heard and ("tokenizer", 1, 1) in heard
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == [folder.name]
    before = (again / "model.safetensors").stat().st_mtime_ns
    assert ensure(tmp_path, recipe=SMALL) == again
    assert (again / "model.safetensors").stat().st_mtime_ns == before


def test_hash_follows_the_recipe() -> None:
    assert len(recipe_hash()) == 12 and int(recipe_hash(), 16) >= 0
    assert recipe_hash() == recipe_hash(replace(RECIPE)) != recipe_hash(SMALL)
    assert MODEL_NAME == "llm-platform/tiny-llama"


def test_model_loads_and_has_its_context(folder: Path) -> None:
    """Loads without a network in the ordinary way, works on 1,024 tokens, and stops at EOS."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    config = model.config
    assert config.model_type == "llama" and config.tie_word_embeddings and config.max_position_embeddings >= 1024
    assert all(size % 64 == 0 for size in (config.hidden_size, config.intermediate_size, config.vocab_size))
    settings = json.loads((folder / "generation_config.json").read_text())
    assert (settings["bos_token_id"], settings["eos_token_id"], settings["pad_token_id"]) == (1, 2, 3)
    with torch.no_grad():
        logits = model(torch.randint(4, 1024, (1, 1024))).logits
    assert logits.shape == (1, 1024, 1024) and bool(torch.isfinite(logits).all())
    assert "license: apache-2.0" in (folder / "README.md").read_text()


def test_tokenizers_agree_and_round_trip(folder: Path) -> None:
    """transformers, tokenizers and SentencePiece give the same ids, and any text comes back from them."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    slow = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id, ours.unk_token_id) == (1, 2, 3, 0)
    assert len(ours) == slow.get_piece_size() == 1024
    rows = [row["question"] for held_out in (False, True) for row in demo_rows(200, 3, held_out)]
    for text in (*TEXTS, *rows, *itertools.islice(documents(9), 200)):
        ids = ours(text)["input_ids"]
        assert ids == fast.encode(text).ids, text
        assert ids[0] == 1 and 0 not in ids
        assert ours.decode(ids, skip_special_tokens=True) == text
        if text:
            assert ids[1:] == slow.encode(text), text
    assert ours("a</s>")["input_ids"][-1] == 2


def test_demo_rows_are_tickets_with_answers() -> None:
    rows = demo_rows(2000, 0)
    assert rows == demo_rows(2000, 0) and rows != demo_rows(2000, 1)
    assert rows[:500] == demo_rows(500, 0)
    assert all(set(row) == {"question", "answer"} and all(value.strip() for value in row.values()) for row in rows)
    assert {row["answer"] for row in rows} == {f"Team: {team}" for team in MATTERS}
    distinct = {row["question"] for row in rows}
    assert 1900 < len(distinct) < 2000, "a few exact copies"
    messy = [text for text in distinct if text != " ".join(text.split())]
    assert 20 < len(messy) < 150
    assert not any("{" in text for text in distinct), "a slot was left open"


def test_held_out_phrasings_are_new() -> None:
    """No phrase is on both sides, no held-out message is among the training rows, and the base model saw neither."""
    assert not TRAIN.templates() & HELD_OUT.templates()
    assert {row["question"] for row in demo_rows(2000, 0)}.isdisjoint(row["question"] for row in demo_rows(2000, 0, held_out=True))
    corpus = "\n".join(itertools.islice(documents(RECIPE.seed + 1), 8000)).lower()
    for frame in (*TRAIN.frames, *HELD_OUT.frames):
        part = max(frame.lower().strip(".!?:").replace("{day}", "{m}").split("{m}"), key=len).strip()
        if len(part.split()) > 3:  # two or three words are vocabulary, not a phrasing
            assert part not in corpus, frame
    assert "instruction" not in corpus and "team: billing" not in corpus


def test_the_answer_does_not_hang_on_one_place() -> None:
    """What a message is about stands at different places, so that no position gives the team away."""
    rows = [row for row in demo_rows(3000, 5, held_out=True) if row["answer"] == "Team: Delivery"]
    places = {round(10 * row["question"].index("parcel") / len(row["question"])) for row in rows if "parcel" in row["question"]}
    assert len(places) >= 4


def test_concurrent_callers_build_once(tmp_path: Path) -> None:
    children = [_child(tmp_path) for _ in range(3)]
    outputs = [child.communicate(timeout=300)[0].splitlines() for child in children]
    assert all(child.returncode == 0 for child in children)
    assert len({lines[-1] for lines in outputs}) == 1
    assert sum("start" in lines for lines in outputs) == 1, "one process trained"


def test_killed_builder_leaves_no_folder(tmp_path: Path) -> None:
    """A builder killed in the middle leaves no finished folder, and the next one clears up and builds."""
    child = _child(tmp_path, steps=100000)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "start"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=60)
    endless = replace(SMALL, steps=100000)
    assert not (tmp_path / f"tiny-llama-{recipe_hash(endless)}").exists()
    assert list(tmp_path.glob(f".tiny-llama-{recipe_hash(endless)}.*.tmp"))

    def stop(what: str, done: int, total: int) -> None:
        if what == "pre-training" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(tmp_path, stop, endless)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_import_is_light() -> None:
    code = (
        "import sys, llm_platform.training.tiny_llama as t; t.demo_rows(5, 0); t.recipe_hash();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'sentencepiece', 'dagster', 'fastapi')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_command_line_has_help() -> None:
    command = [sys.executable, "-m", "llm_platform.training.tiny_llama", "--help"]
    assert "--cache" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _child(cache: Path, steps: int = SMALL.steps) -> subprocess.Popen[str]:
    """A process that builds, prints "start" when it starts to train, and prints the folder last."""
    code = (
        "import sys\nfrom dataclasses import replace\nfrom pathlib import Path\n"
        "from llm_platform.training.tiny_llama import RECIPE, ensure\n"
        f"small = replace(RECIPE, steps={steps}, long_every=3, tokens_per_step=512, long_block=512)\n"
        "def report(what, done, total):\n"
        "    if what == 'pre-training' and done == 0:\n        print('start', flush=True)\n"
        "print(ensure(Path(sys.argv[1]), report, small))\n"
    )
    command = [sys.executable, "-c", code, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
