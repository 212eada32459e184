"""Answering with a model card: as Markdown, or as a page that can run nothing."""

from __future__ import annotations

from fastapi.responses import Response

from llm_platform.registry import RegisteredModel, Registry, card
from llm_platform.registry.card_page import STYLE_SHA256, card_page
from llm_platform.registry.charts import charts_of

HTML, MARKDOWN = "text/html", "text/markdown"
# What a dataset or a person's model name brings along is text, and stays text: no script, no request to anywhere, no frame.
_POLICY = (
    f"default-src 'none'; img-src data:; style-src 'sha256-{STYLE_SHA256}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def card_response(model: RegisteredModel, registry: Registry, accept: str) -> Response:
    """The form that `accept`, an Accept header, prefers; Markdown if it has no preference."""
    text = card(model, charts_of(model, registry))
    headers = {"Vary": "Accept", "X-Content-Type-Options": "nosniff"}
    if _quality(accept, HTML) > _quality(accept, MARKDOWN):
        return Response(card_page(text), headers=headers | {"Content-Security-Policy": _POLICY}, media_type=f"{HTML}; charset=utf-8")
    return Response(text, headers=headers, media_type=f"{MARKDOWN}; charset=utf-8")


def _quality(accept: str, wanted: str) -> float:
    """How much a media type is wanted, from 0 to 1: the value of the most specific range that it falls under."""
    best = (0, 0.0)
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        ranges = {"*/*": 1, f"{wanted.partition('/')[0]}/*": 2, wanted: 3}
        if kind in ranges:
            best = max(best, (ranges[kind], _weight(parameters)))
    return best[1]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
