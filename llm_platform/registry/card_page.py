"""The model card as a page. What the card quotes (names, settings) is text and stays text: HTML in it is shown, not read."""

from __future__ import annotations

import base64
import hashlib
import html
import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#101828}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}th,td{border:1px solid #d0d5dd;padding:.3rem .6rem;text-align:left}"
    ".right{text-align:right}pre{background:#f2f4f7;padding:1rem;overflow-x:auto}code{font-size:.9em}img{max-width:100%}"
)
STYLE_SHA256 = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
"""For a Content-Security-Policy that lets in this style and no other."""

_HEAD = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def card_page(card: str) -> str:
    """HTML of a card; its metadata is shown at the end. Links and pictures are those that markdown-it takes for harmless."""
    head = _HEAD.match(card)
    body = card[head.end() :] if head else card
    tokens = _MARKDOWN.parse(body)
    title = next((one.content for one in tokens if one.type == "inline"), "Model card")
    shown = _MARKDOWN.renderer.render(_classed(tokens), _MARKDOWN.options, {})
    metadata = f"<h2>Metadata</h2>\n<pre><code>{html.escape(head.group(1))}</code></pre>" if head else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body>\n{shown}{metadata}\n</body></html>\n"
    )


def _classed(tokens: list[Token]) -> list[Token]:
    """A table's alignment as a class: the page's policy lets no style attribute in."""
    for token in tokens:
        if token.attrs.pop("style", None) == "text-align:right":
            token.attrs["class"] = "right"
    return tokens
