"""A platform for fine-tuning language models: the library and the Python SDK. Importing it never imports torch.

from llm_platform import Client
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_platform.errors import PlatformError

if TYPE_CHECKING:
    from llm_platform.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "PlatformError"]


def __getattr__(name: str) -> Any:
    """Imports the SDK when it is first asked for: workers and the command line start without httpx."""
    if name in ("AsyncClient", "Client"):
        from llm_platform import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
