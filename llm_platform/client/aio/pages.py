"""Lists of `AsyncClient`: await one for a page, or go through all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

from llm_platform.client.pages import Page

ItemT = TypeVar("ItemT")


class AsyncListing(Generic[ItemT]):
    """What `list()` returns: `await` gives one page, `async for` every item from there to the end of the list, over `pages()` every page.

    Nothing is asked before.
    """

    def __init__(self, offset: int, fetch: Callable[[int], Awaitable[Page[ItemT]]]) -> None:
        self._offset = offset
        self._fetch = fetch

    def __await__(self) -> Generator[Any, Any, Page[ItemT]]:
        return self._fetch(self._offset).__await__()

    async def pages(self) -> AsyncIterator[Page[ItemT]]:
        page = await self
        yield page
        while page.has_more and page.items:
            page = await self._fetch(page.offset + len(page.items))
            yield page

    async def __aiter__(self) -> AsyncIterator[ItemT]:
        async for page in self.pages():
            for item in page.items:
                yield item
