"""Builds the model's folder once per machine."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llm_platform.training.tiny_llama.card import card
from llm_platform.training.tiny_llama.pretrain import Progress, pretrain
from llm_platform.training.tiny_llama.recipe import RECIPE, Recipe, recipe_hash
from llm_platform.training.tiny_llama.tokenizer import save, train


def ensure(cache: Path, progress: Progress | None = None, recipe: Recipe = RECIPE) -> Path:
    """The model's folder in `cache`, built when it is missing (about two minutes on two cores).

    Many processes may ask at once: one builds, the others wait. `progress(what, done, total)` is called often. A folder
    under the final name is always whole, since it gets that name last.
    """
    report: Progress = progress or (lambda what, done, total: None)
    digest = recipe_hash(recipe)
    name = f"tiny-llama-{digest}"
    folder = cache / name
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / f".{name}.lock")
    _acquire(lock, report)
    try:
        if folder.is_dir():  # another process built it while this one waited
            return folder
        _sweep(cache, name)
        building = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=cache))
        try:
            _build(building, recipe, digest, report)
            _sync(building)
            building.chmod(0o755)  # mkdtemp's folder is for its owner alone
            building.rename(folder)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        _sync_folder(cache)
        return folder
    finally:
        lock.release()


def _sweep(cache: Path, name: str) -> None:
    """Removes what killed builders left: of this recipe, whose lock is held, and of others whose lock nobody holds."""
    for leftover in cache.glob(".tiny-llama-*.tmp"):
        owner = leftover.name.split(".")[1]
        if owner == name:
            shutil.rmtree(leftover, ignore_errors=True)
            continue
        with suppress(Timeout), FileLock(cache / f".{owner}.lock").acquire(timeout=0):
            shutil.rmtree(leftover, ignore_errors=True)


def _acquire(lock: FileLock, report: Progress) -> None:
    """Take the lock; say every second that another process holds it."""
    while True:
        try:
            lock.acquire(timeout=1)
            return
        except Timeout:
            report("waiting for another build", 0, 1)


def _build(folder: Path, recipe: Recipe, digest: str, report: Progress) -> None:
    report("tokenizer", 0, 1)
    pieces = train(recipe)
    save(pieces, folder, recipe.context)
    report("tokenizer", 1, 1)
    model = pretrain(recipe, pieces, report)
    report("saving", 0, 1)
    _save_model(model, folder)
    folder.joinpath("README.md").write_text(card(recipe, digest, model.num_parameters()), encoding="utf-8")
    report("saving", 1, 1)


def _save_model(model: Any, folder: Path) -> None:
    """Weights as safetensors, and how to generate: greedily, to the end of the answer."""
    model.generation_config.bos_token_id = 1
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 3
    model.generation_config.do_sample = False
    model.save_pretrained(folder, safe_serialization=True)


def _sync(folder: Path) -> None:
    """Have the files on the disk before the folder gets its name."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
