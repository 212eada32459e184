"""Small charts as PNG. Matplotlib is imported on first use, without a display and without its global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

_COLOR = "#3b6fb6"
_QUIET = "#667085"


def bars(places: Sequence[float], heights: Sequence[float], *, width: float, title: str, x_label: str, y_label: str) -> bytes:
    """Touching vertical bars: a histogram. `places` are the middles of the bars, `width` is in the same unit."""
    figure, axes = _axes()
    axes.bar(places, heights, width=width * 0.94, color=_COLOR)
    axes.set_title(_plain(title), fontsize=10, loc="left")
    axes.set_xlabel(x_label, fontsize=9, color=_QUIET)
    axes.set_ylabel(y_label, fontsize=9, color=_QUIET)
    return _png(figure)


def rows(labels: Sequence[str], widths: Sequence[int], *, title: str) -> bytes:
    """Horizontal bars from top to bottom, each with its number: a funnel."""
    figure, axes = _axes()
    places = range(len(labels))
    axes.barh(places, widths, color=_COLOR, height=0.68)
    axes.set_yticks(list(places), [_plain(label) for label in labels], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max([*widths, 1]) * 1.15)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    for place, width in zip(places, widths, strict=True):
        axes.annotate(f" {width:,}", (width, place), va="center", fontsize=9, color=_QUIET)
    axes.set_title(_plain(title), fontsize=10, loc="left")
    return _png(figure)


def _plain(text: str) -> str:
    """No mathematics, no characters that the font lacks (which would warn), no endless titles."""
    short = text if len(text) <= 70 else text[:69] + "…"
    known = (letter if letter in "“”…" or (letter.isprintable() and ord(letter) < 0x250) else "?" for letter in short)
    return "".join(known).replace("$", r"\$")


def _axes() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_QUIET)
    return figure, axes


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
