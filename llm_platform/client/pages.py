"""Lists: one page at a time, or all items one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from llm_platform.client.display import table

ItemT = TypeVar("ItemT")
OtherT = TypeVar("OtherT")


@dataclass(frozen=True)
class Page(Generic[ItemT]):
    """`items`, of `total` that there are, from `offset` on. Iterating a page gives its items; `all()` goes on to the end of the list."""

    items: list[ItemT]
    total: int
    limit: int
    offset: int
    has_more: bool
    turn: Callable[[int], Page[ItemT]] | None = field(default=None, repr=False, compare=False)
    """Fetches the page from an offset on; there if the page came from a `Client`."""

    def pages(self) -> Iterator[Page[ItemT]]:
        """This page and those behind it, each fetched when it is asked for."""
        page = self
        yield page
        while page.has_more and page.items and self.turn is not None:
            page = replace(self.turn(page.offset + len(page.items)), turn=self.turn)
            yield page

    def all(self) -> Iterator[ItemT]:
        """The items from here to the end of the list."""
        for page in self.pages():
            yield from page.items

    def with_items(self, make: Callable[[ItemT], OtherT]) -> Page[OtherT]:
        """The same page with other items."""
        return Page([make(item) for item in self.items], self.total, self.limit, self.offset, self.has_more)

    def __iter__(self) -> Iterator[ItemT]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        last = self.offset + len(self.items)
        return table([_row(item) for item in self.items], f"{self.offset + 1 if self.items else 0} to {last} of {self.total}")


def _row(item: Any) -> dict[str, Any]:
    """What a list shows of an item: its short fields."""
    shown = item.shown() if hasattr(item, "shown") else item.model_dump()
    return {name: value for name, value in shown.items() if not isinstance(value, dict | Sequence) or isinstance(value, str)}
