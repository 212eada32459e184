"""How results look in a notebook: small tables of HTML, in which nothing that a dataset, a model or a user named is markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from llm_platform.specs import comparison
from llm_platform.specs.comparison import ComparedModel

LONGEST = 200
"""Characters of a cell."""


class Comparison(comparison.Comparison):
    """Models on the same examples, each against the baseline; a table of figures in a notebook."""

    def _repr_html_(self) -> str:
        metrics = sorted({metric for model in self.models for metric in model.metrics})
        rows = [{"model": model.model_id, **{metric: self._figure(model, metric) for metric in metrics}} for model in self.models]
        return table(rows, f"{self.examples} examples; differences are against {self.baseline}")

    def _figure(self, model: ComparedModel, metric: str) -> str:
        value = model.metrics.get(metric)
        gains = (item.differences.get(metric) for item in self.differences if item.model_id == model.model_id)
        gain = next((item for item in gains if item is not None), None)
        return "" if value is None else f"{value:.4g}" + ("" if gain is None else f" ({gain:+.3g})")


def table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> str:
    """Rows of one layout, the first one's fields as columns."""
    columns = list(rows[0]) if rows else []
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(row.get(name))}</td>' for name in columns)}</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def card(title: str, fields: Mapping[str, Any]) -> str:
    """One thing, a field on each line; fields that are not there are left out."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{_cell(value)}</td></tr>" for name, value in fields.items() if value not in (None, {}, [])
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{rows}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        text = ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    elif isinstance(value, list | tuple):
        text = ", ".join(_text(item) for item in value)
    else:
        text = _text(value)
    return escape(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return f"{value:.4g}" if isinstance(value, float) else str(value)
