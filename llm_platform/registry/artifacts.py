"""The files of a model in MLflow: trained weights as something that MLflow loads, and their digests."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llm_platform.registry.pyfunc_adapter import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

ADAPTER: Literal["adapter"] = "adapter"
MODEL: Literal["model"] = "model"
MERGED: Literal["merged"] = "merged"

_LOADER = "llm_platform_adapter"
_REQUIREMENTS = ("mlflow", "torch", "transformers", "peft", "accelerate")


def log_weights(
    repository: ArtifactRepository, folder: Path, kind: Literal["adapter", "model", "merged"], mlflow_run_id: str
) -> dict[str, str]:
    """Keeps the weights of a folder as the run's artifact of that kind; the SHA-256 of each file there.

    An adapter's files stay as they are, and beside them lies what makes them a pyfunc. A whole or merged model becomes MLflow's
    transformers flavor, for which it is loaded into memory.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:  # beside the weights: there is room for them on that disk
        flavor = Path(work, kind)
        if kind == ADAPTER:
            _save_pyfunc(flavor, mlflow_run_id)
            repository.log_artifacts(str(folder), kind)
            digests = _digests(folder) | _digests(flavor)
        else:
            from llm_platform.registry.flavor import save_flavor

            save_flavor(folder, flavor)
            digests = _digests(flavor)
        repository.log_artifacts(str(flavor), kind)
    return digests


def read_digests(repository: ArtifactRepository, path: str) -> Iterator[tuple[str, int, str]]:
    """Each file below an artifact, read once: its name there, size and SHA-256. One file at a time is on this machine's disk."""
    for item in repository.list_artifacts(path) or []:
        if item.is_dir:
            yield from read_digests(repository, item.path)
            continue
        with tempfile.TemporaryDirectory() as work:
            file = Path(repository.download_artifacts(item.path, work))
            yield item.path, file.stat().st_size, _sha256(file)


def files_digest(files: Mapping[str, str]) -> str:
    """One SHA-256 for several files, from the name and SHA-256 of each."""
    return hashlib.sha256(json.dumps(dict(sorted(files.items()))).encode()).hexdigest()


def _save_pyfunc(target: Path, mlflow_run_id: str) -> None:
    """Writes what turns the folder of an adapter into a pyfunc: MLmodel, requirements, and the code that loads it."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    (target / "code").mkdir(parents=True)
    shutil.copyfile(Path(__file__).with_name("pyfunc_adapter.py"), target / "code" / f"{_LOADER}.py")
    versions = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in _REQUIREMENTS]
    (target / "requirements.txt").write_text("\n".join(versions) + "\n", "utf-8")
    python = ".".join(map(str, sys.version_info[:3]))
    (target / "python_env.yaml").write_text(f"python: {python}\ndependencies:\n- -r requirements.txt\n", "utf-8")
    text = Schema([ColSpec(DataType.string)])
    params = ParamSchema([ParamSpec("max_new_tokens", DataType.long, MAX_NEW_TOKENS)])
    model = Model(artifact_path=ADAPTER, run_id=mlflow_run_id, signature=ModelSignature(inputs=text, outputs=text, params=params))
    model.add_flavor(
        "python_function",
        loader_module=_LOADER,
        python_version=python,
        code="code",
        env={"virtualenv": "python_env.yaml"},
        config={"base_model": ""},  # MLflow lets nobody set what is not named here
    )
    model.save(str(target / "MLmodel"))


def _digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
