"""An executed notebook as one HTML page that can do nothing: no script, frame, form or address outside of it survives.

What a notebook prints may come from a dataset or from a model, so the page is safe to open by itself; the API's headers are a
second lock. Importing nbconvert takes half a second: import this module only where a notebook was run.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import nh3
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

from llm_platform.notebooks import POLICY

_STYLES = {
    *("background", "background-color", "border-collapse", "border-radius", "color", "display", "font-family", "font-size"),
    *("font-style", "font-weight", "line-height", "overflow-wrap", "text-align", "text-decoration", "vertical-align", "white-space"),
    *(f"border{side}" for side in ("", "-top", "-right", "-bottom", "-left", "-color", "-style", "-width")),
    *(f"{what}{side}" for what in ("margin", "padding") for side in ("", "-top", "-right", "-bottom", "-left")),
    *(f"{bound}{what}" for what in ("width", "height") for bound in ("", "max-", "min-")),
}
_ATTRIBUTES = {
    "*": {"class", "style", "title", "align"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
    "ol": {"start"},
}
_TAGS = nh3.ALLOWED_TAGS - {"map", "area"}
_PICTURES = {"image/png", "image/jpeg", "image/svg+xml"}


def page(notebook: Any) -> str:
    """The page of a notebook as nbformat reads it."""
    _only_what_is_shown(notebook)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    clean = nh3.clean(
        body,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_filtered,
        filter_style_properties=_STYLES,
        url_schemes={"http", "https", "mailto", "data"},
        link_rel="noopener noreferrer",
    )
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("notebook_page.html.jinja").render(
        title=title_of(notebook),
        policy=POLICY,
        colours=Markup(HtmlFormatter(style="default").get_style_defs(".highlight")),
        body=Markup(clean),
    )


def title_of(notebook: Any) -> str:
    """The first heading, without its marks."""
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.lstrip("#").strip() for line in lines if line.startswith("#")), "Notebook")


def _only_what_is_shown(notebook: Any) -> None:
    """Drawings become images, within which a browser runs nothing; what needs scripts gives way to its plain text."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if isinstance(svg := data.pop("image/svg+xml", None), str) and not _PICTURES & data.keys():
                encoded = base64.b64encode(svg.encode()).decode()
                data["text/html"] = f'<img alt="drawing" src="data:image/svg+xml;base64,{encoded}">'
            for kind in [kind for kind in data if kind.startswith("application/")]:
                del data[kind]


def _filtered(tag: str, attribute: str, value: str) -> str | None:
    """Images are data, and of links only those that lead to another page are left."""
    if (tag, attribute) == ("img", "src"):
        return value if value.startswith("data:image/") else None
    if attribute == "href":
        return None if value.lower().startswith("data:") else value
    return None if attribute == "style" and "url(" in value.lower() else value
