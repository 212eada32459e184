"""Base models: which names are allowed, where their files are, and loading them without running code from them.

A name is `llm-platform/tiny-llama` (built on this machine), the absolute path of a folder inside `Settings.model_roots`, or a
hub id `org/name` (the local cache first, then the network). Only safetensors weights are ever read: a pickle can run code.
Everything here but `load` works without torch, so that a job's base model is checked before the job is accepted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_platform.errors import InvalidConfig
from llm_platform.reporting import Reporter
from llm_platform.settings import Settings
from llm_platform.training.folders import sha256
from llm_platform.training.tiny_llama import MODEL_NAME, ensure, recipe_hash

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
DOWNLOADED = ["*.safetensors", "*.json", "tokenizer.model", "merges.txt", "vocab.txt", "*.jinja", "README.md", "LICENSE*"]
NOT_DOWNLOADED = ["*/*", "consolidated*"]
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
)
DIGESTS = ".digests.json"


def check_name(name: str, settings: Settings) -> None:
    """Everything about a base model's name that can be known at once and without the network. Raises InvalidConfig."""
    if name == MODEL_NAME:
        return
    if _is_path(name):
        _allowed_folder(name, settings)
        return
    _check_hub_id(name)
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE and _cached(name) is None:
        raise InvalidConfig(f"Base model '{name}' is not in this machine's cache, and downloads are switched off here (HF_HUB_OFFLINE)")


def resolve(name: str, settings: Settings, reporter: Reporter) -> Path:
    """The folder of a base model and its tokenizer, built or downloaded if need be. Raises InvalidConfig."""
    check_name(name, settings)
    if name == MODEL_NAME:
        return ensure(settings.cache, _progress(reporter))
    if _is_path(name):
        return _allowed_folder(name, settings)
    folder = _cached(name)
    if folder is None:
        reporter.info(f"Downloading base model {name}")
        folder = _download(name)
        _check_files(folder, name)
    return folder


def is_ready(name: str, settings: Settings) -> bool:
    """Whether the model's files are on this machine, so that `resolve` neither builds nor downloads."""
    return _is_path(name) or on_disk(name, settings) is not None


def on_disk(name: str, settings: Settings) -> Path | None:
    """The model's folder, if its files are on this machine. Raises InvalidConfig for a folder that is not allowed."""
    if name == MODEL_NAME:
        built = settings.cache / f"tiny-llama-{recipe_hash()}"
        return built if built.is_dir() else None
    return _allowed_folder(name, settings) if _is_path(name) else _cached(name)


def _progress(reporter: Reporter) -> Callable[[str, int, int], None]:
    def told(what: str, done: int, total: int) -> None:
        reporter.check_cancelled()
        reporter.progress(done, total, what)

    return told


def _is_path(name: str) -> bool:
    """Hub ids have one slash between two plain names; what looks like a path or an address is treated, and refused, as one."""
    return name.startswith(("/", "~", ".")) or ".." in name or "\\" in name or "://" in name or name.count("/") > 1


def _allowed_folder(name: str, settings: Settings) -> Path:
    if "://" in name:
        raise InvalidConfig("A base model is a hub id like 'org/name' or the path of an allowed folder; addresses are not loaded")
    try:
        folder = Path(name).resolve()
        roots = [root.expanduser().resolve() for root in settings.model_roots]
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidConfig("The base model's path cannot be read") from error
    # One message for "outside" and "not there": which other folders this machine has is nobody's business.
    if not Path(name).is_absolute() or not any(folder.is_relative_to(root) for root in roots) or not folder.is_dir():
        raise InvalidConfig(
            "The base model's path is not a folder from which models may be loaded; "
            "the operator allows folders with LLM_PLATFORM_MODEL_ROOTS, and paths must be absolute"
        )
    _check_files(folder, folder.name)
    for path in folder.iterdir():
        if path.is_symlink() and not any(path.resolve().is_relative_to(root) for root in roots):
            raise InvalidConfig(f"Base model '{folder.name}' has a link that leads outside the allowed folders: {path.name}")
    return folder


def _check_files(folder: Path, name: str) -> None:
    """Raises InvalidConfig if a folder lacks a config, a fast tokenizer or complete safetensors weights."""
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise InvalidConfig(f"Base model '{name}' has no {needed}")
    if not _weights(folder):
        pickles = any(next(folder.glob(pattern), None) for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt"))
        why = "; it has pickled ones, which can run code and are not loaded: convert them to safetensors" if pickles else ""
        raise InvalidConfig(f"Base model '{name}' has no safetensors weights{why}")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text("utf-8")).get("weight_map", {}).values())
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            raise InvalidConfig(f"Base model '{name}' is incomplete; it lacks {', '.join(missing[:5])}")


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _check_hub_id(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        if HUB_ID.fullmatch(name):
            validate_repo_id(name)
            return
    except HFValidationError:
        pass
    raise InvalidConfig(
        f"'{name[:100]}' is not the name of a base model; "
        f"give '{MODEL_NAME}', a hub id like 'org/name', or the absolute path of an allowed folder"
    )


def _cached(name: str) -> Path | None:
    """The snapshot in the local hub cache, if it is complete."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=DOWNLOADED, ignore_patterns=NOT_DOWNLOADED, local_files_only=True))
        _check_files(folder, name)
    except (OSError, ValueError, InvalidConfig):
        return None
    return folder


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=DOWNLOADED, ignore_patterns=NOT_DOWNLOADED))
    except GatedRepoError as error:
        raise InvalidConfig(f"Base model '{name}' is gated: accept its licence on the hub and set HF_TOKEN where training runs") from error
    except RepositoryNotFoundError as error:
        raise InvalidConfig(
            f"There is no model '{name}' on the hub, or it is private and HF_TOKEN is not set where training runs"
        ) from error
    except Exception as error:
        # The hub client raises errors of its own, of its HTTP library and of the system; none of them helps a user more than this.
        raise InvalidConfig(
            f"Base model '{name}' could not be downloaded ({type(error).__name__}); check the network, or put it into the cache first"
        ) from error


def model_digest(folder: Path) -> str:
    """Hex SHA-256 over the names and digests of config, tokenizer and weights."""
    return hashlib.sha256(json.dumps(file_digests(folder)).encode()).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that decides what a model answers (config, tokenizer and weights), in order of their names.

    Hashing gigabytes takes seconds, so each file's digest is kept beside it with its size and time of change.
    """
    known = _known_digests(folder)
    digests: dict[str, Any] = {}
    for path in [folder / "config.json", folder / "tokenizer.json", *_weights(folder)]:
        state = [path.stat().st_size, path.stat().st_mtime_ns]
        entry = known.get(path.name)
        digests[path.name] = entry if entry and entry[:2] == state else [*state, sha256(path)]
    if digests != known:
        with suppress(OSError):  # in a read-only folder, hash again next time
            (folder / DIGESTS).write_text(json.dumps(digests), "utf-8")
    return {name: entry[2] for name, entry in sorted(digests.items())}


def _known_digests(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / DIGESTS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def license_of(folder: Path) -> str | None:
    """The licence that a base model's README.md states in its YAML head; None if it states none."""
    import yaml

    try:
        text = (folder / "README.md").read_text("utf-8")
        head = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
        stated = yaml.safe_load(head.group(1)) if head else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    found = stated.get("license") if isinstance(stated, dict) else None
    return found if isinstance(found, str) else None


def stored_dtype(folder: Path) -> torch.dtype:
    """The precision of the model's weights, from the weights themselves."""
    import torch
    from safetensors import safe_open

    names = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    with safe_open(_weights(folder)[0], "pt") as file:
        found = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return next((dtype for name, dtype in names.items() if name in found), torch.float32)


def load(folder: Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """The model on the CPU in `dtype`, in evaluation mode; `options` are transformers' own, such as a quantization.

    Raises InvalidConfig if it cannot be loaded whole; where memory runs out, what PyTorch raises.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from llm_platform.training.device import is_out_of_memory

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            # PyTorch's own attention kernels have no soft cap (Gemma 2).
            attn_implementation="eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa",
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        if is_out_of_memory(error):
            raise
        raise InvalidConfig(f"The base model cannot be loaded: {str(error).replace(str(folder), 'its folder')[:500]}") from error
    model, found = loaded
    wrong = sorted({*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])})
    if wrong:
        # transformers would fill these with random numbers and go on.
        raise InvalidConfig(f"The base model's weights are incomplete; they lack {', '.join(wrong[:5])}")
    return model.eval()
