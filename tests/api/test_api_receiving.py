"""The bytes of an uploaded file come through the form's parser as they were, wherever the network cuts them."""

from __future__ import annotations

import asyncio
import hashlib
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import Request
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from starlette.types import Message

from api.multipart import received

BOUNDARY = b"edge"
# Whole and half boundaries, and what they begin and end with.
PIECES = st.sampled_from([b"\r", b"\n", b"\r\n", b"-", b"--", b"\r\n--", b"\r\n--edg", b"--edge", b"text without an end of line", b"\0"])


async def upload(body: bytes, cuts: list[int], folder: Path) -> tuple[str, bytes]:
    places = [0, *sorted(cuts), len(body)]
    chunks = [body[start:end] for start, end in pairwise(places)]

    async def receive() -> Message:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    headers = [(b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)]
    async with received(Request({"type": "http", "headers": headers}, receive), folder, limit=2**20) as file:
        assert file.size_bytes == file.path.stat().st_size
        return file.sha256, file.path.read_bytes()


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=12).map(b"".join), st.data())
def test_a_file_arrives_as_it_was_wherever_it_is_cut(content: bytes, data: st.DataObject) -> None:
    assume(b"\r\n--edge" not in content)  # a client chooses a boundary that its file does not hold
    form = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + content + b"\r\n--edge--\r\n"
    cuts = data.draw(st.lists(st.integers(0, len(form)), max_size=8))
    with TemporaryDirectory() as folder:
        digest, bytes_read = asyncio.run(upload(form, cuts, Path(folder)))
    assert bytes_read == content and digest == hashlib.sha256(content).hexdigest()
