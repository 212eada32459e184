"""The OpenAPI document that the JavaScript SDK's types are made from is the one that the API serves.

`make sdk-types` renews it; `python -m tests.client.test_client_openapi_snapshot` writes the document alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from api.main import create_app

SNAPSHOT = Path(__file__).resolve().parents[2] / "sdk" / "js" / "openapi.json"


def document() -> str:
    return json.dumps(create_app().openapi(), indent=1, ensure_ascii=False) + "\n"


def test_the_snapshot_is_the_live_document() -> None:
    assert SNAPSHOT.read_text(encoding="utf-8") == document(), "renew it with: make sdk-types"


if __name__ == "__main__":
    SNAPSHOT.write_text(document(), encoding="utf-8")
