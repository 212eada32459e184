"""The Python SDK for asyncio: `AsyncClient`, with the resources and methods of `Client`."""

from llm_platform.client.aio.client import AsyncClient
from llm_platform.client.aio.jobs import AsyncJob
from llm_platform.client.aio.models import AsyncModel
from llm_platform.client.aio.pages import AsyncListing

__all__ = ["AsyncClient", "AsyncJob", "AsyncListing", "AsyncModel"]
