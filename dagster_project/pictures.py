"""Pictures in asset metadata: Dagster's UI shows Markdown, and Markdown holds images."""

from __future__ import annotations

import base64

import dagster as dg


def picture(png: bytes, alt: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})")
