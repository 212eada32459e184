"""Which exception an error answer becomes, held against the JavaScript SDK by way of `sdk/js/test/errors.json`.

`python -m tests.client.test_client_errors` writes that table, to which the package's own tests hold the JavaScript SDK.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_platform.client.transport import error_of
from llm_platform.errors import Conflict, NotFound, PayloadTooLarge, PlatformError, RangeNotSatisfiable, StorageError, error_classes

TABLE = Path(__file__).resolve().parents[2] / "sdk" / "js" / "test" / "errors.json"
STATUSES = (400, 401, 403, 404, 405, 409, 413, 415, 416, 418, 429, 431, 500, 501, 502, 503, 504, 507)
CODES = sorted({kind.code for kind in error_classes()} | {"OF_TOMORROW"})
ODD = [
    (500, ""),
    (404, "<html>no</html>"),
    (404, "null"),
    (404, '["STORAGE_ERROR"]'),
    (404, '"STORAGE_ERROR"'),
    (404, '{"detail": "Not Found"}'),
    (413, '{"error": {"code": "STORAGE_ERROR"}, "message": "no"}'),
    (413, '{"error": "STORAGE_ERROR"}'),
    (413, '{"error": "STORAGE_ERROR", "message": 3}'),
    (413, '{"error": "STORAGE_ERROR", "message": "no"}'),
    (413, '{"error": "STORAGE_ERROR", "message": "no", "metadata": null}'),
    (413, '{"error": "STORAGE_ERROR", "message": "no", "metadata": "odd"}'),
    (413, '{"error": "STORAGE_ERROR", "message": "no", "metadata": [1]}'),
    (413, '{"error": "STORAGE_ERROR", "message": "no", "metadata": {"self": 1, "message": "m", "status": 2}, "more": 1}'),
]
"""Answers (status, text) that a proxy or a platform of tomorrow may give."""


def raised(status: int, text: str, **headers: str) -> PlatformError:
    return error_of(httpx.Response(status, text=text, headers=headers, request=httpx.Request("GET", "http://localhost/api/v1/jobs/1")))


def of_code(status: int, code: str | None) -> str:
    text = "busy" if code is None else json.dumps({"error": code, "message": "no", "metadata": {}})
    return type(raised(status, text)).__name__


def table() -> str:
    """The class by status where there is no error body, by code where there is one, and where the status matters then; odd bodies."""
    codes = {code: of_code(STATUSES[0], code) for code in CODES}
    pairs = [(status, code, of_code(status, code)) for status in STATUSES for code in CODES]
    odd: list[dict[str, Any]] = []
    for status, text in ODD:
        error = raised(status, text)
        message = None if "was answered with" in error.message else error.message
        odd.append({"status": status, "text": text, "class": type(error).__name__, "message": message, "metadata": error.metadata})
    found = {
        "statuses": {str(status): of_code(status, None) for status in STATUSES},
        "codes": codes,
        "apart": [{"status": status, "code": code, "class": kind} for status, code, kind in pairs if kind != codes[code]],
        "odd": odd,
    }
    return json.dumps(found, indent=1) + "\n"


def test_both_sdks_raise_the_same_class_for_every_status_and_code() -> None:
    assert TABLE.read_text(encoding="utf-8") == table(), "renew it with: python -m tests.client.test_client_errors"


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_every_class_comes_back_from_its_own_body_and_status(kind: type[PlatformError]) -> None:
    error = raised(kind.status, json.dumps(kind("no", a_b=1).body()))
    assert (type(error), error.message, error.metadata) == (kind, "no", {"a_b": 1})


def test_the_status_tells_the_classes_of_one_code_apart() -> None:
    assert of_code(416, "VALIDATION_ERROR") == RangeNotSatisfiable.__name__
    assert of_code(400, "VALIDATION_ERROR") == of_code(405, "VALIDATION_ERROR") == "InvalidInput"
    assert of_code(409, "STORAGE_ERROR") == StorageError.__name__, "the code goes before the status"


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (409, PlatformError), (413, PayloadTooLarge), (500, PlatformError)])
def test_without_an_error_body_the_status_alone_says_what_it_is(status: int, kind: type[PlatformError]) -> None:
    error = raised(status, "<html>no</html>")
    assert type(error) is kind and f"GET http://localhost/api/v1/jobs/1 was answered with {status}" in error.message


def test_an_error_carries_the_id_of_its_request() -> None:
    body = json.dumps(Conflict("no").body())
    assert raised(409, body, **{"X-Request-Id": "r1"}).request_id == "r1"
    assert raised(502, "busy", **{"X-Request-Id": "r2"}).request_id == "r2"
    assert raised(409, body).request_id is None
    assert Conflict("made here").request_id is None


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
