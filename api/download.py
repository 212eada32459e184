"""Answering a download: whole or in part, with what caches and resuming clients need."""

from __future__ import annotations

from fastapi.responses import Response, StreamingResponse

from llm_platform.models import Archive, parse_range
from llm_platform.storage import Storage


def known(etag: str, if_none_match: str | None) -> bool:
    """Whether the client has what an entity tag stands for (RFC 9110, 13.1.2): it names any, or one that is the same, weak or not."""
    tags = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    return "*" in tags or etag.removeprefix("W/") in tags


def archive_response(archive: Archive, storage: Storage, *, range: str | None, if_range: str | None, if_none_match: str | None) -> Response:
    """Status 200, 206 or 304. Raises RangeNotSatisfiable (416)."""
    headers = {"ETag": archive.etag, "Accept-Ranges": "bytes"}
    if known(archive.etag, if_none_match):
        return Response(status_code=304, headers=headers)
    # A range of what has changed meanwhile would be spliced to what the client has: it gets the whole.
    part = parse_range(range if if_range in (None, archive.etag) else None, archive.size)
    start, end = part or (0, archive.size)
    headers |= {"Content-Length": str(end - start), "Content-Disposition": f'attachment; filename="{archive.filename}"'}
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{archive.size}"
    return StreamingResponse(archive.read(storage, start, end), 206 if part else 200, headers, "application/x-tar")
