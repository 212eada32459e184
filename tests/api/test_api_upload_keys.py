"""Idempotency-Key on uploads over real HTTP: one dataset of many requests, also of those that come at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from llm_platform import keys
from llm_platform.specs.keys import KeyRequest
from tests.api.api_harness import CSV, Api, Start

HEADERS = {"Idempotency-Key": "rows of Tuesday"}


def send(api: Api, data: bytes = CSV, filename: str = "rows.csv", headers: dict[str, str] = HEADERS, **form: str) -> httpx.Response:
    return api.client.post("/datasets/upload", files={"file": (filename, data)}, data=form, headers=headers)


def test_the_same_file_again_is_the_same_dataset(api: Api) -> None:
    first, again = send(api), send(api)
    assert first.status_code == 200 and again.json() == first.json()
    assert send(api, format="csv").json() == first.json(), "the format that was seen may be said"
    assert api.counts()[1] == 1 and len(api.counts()[2]) == 2 and api.nothing_left()
    assert send(api, headers={"Idempotency-Key": "Wednesday"}).json()["dataset_id"] != first.json()["dataset_id"]
    assert send(api, headers={}).json()["dataset_id"] != send(api, headers={}).json()["dataset_id"]


def test_another_file_is_a_conflict(api: Api) -> None:
    assert send(api).status_code == 200
    before = api.counts()
    for answer in (send(api, CSV + b"more,1\n"), send(api, filename="other.csv"), send(api, format="txt"), send(api, b"", "empty.csv")):
        assert (answer.status_code, answer.json()["error"]) == (409, "CONFLICT"), answer.text
        assert answer.json()["metadata"] == {"field": "Idempotency-Key"}
    assert api.counts() == before and api.nothing_left()


def test_a_refused_file_does_not_use_up_its_key(api: Api) -> None:
    assert send(api, b"").status_code == 400
    assert send(api).status_code == 200


def test_at_once_they_are_one(start: Start) -> None:
    """Two processes of the API over one home, each asked several times."""
    with start() as one, start(home=one.services.settings.root) as other, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, [one, other] * 4))
        assert [answer.status_code for answer in answers] == [200] * 8
        assert len({answer.text for answer in answers}) == 1
        dataset_id = answers[0].json()["dataset_id"]
        assert one.counts()[1] == 1 and len(one.counts()[2]) == 2, "the files of those who came later are gone"
        assert one.client.get(f"/datasets/{dataset_id}/preview").json()["total_rows"] == 30
        with ThreadPoolExecutor(2) as pool:
            headers = {"Idempotency-Key": "two files"}
            codes = list(pool.map(lambda data: send(one, data, headers=headers).status_code, [CSV, CSV + b"more,1\n"]))
        assert sorted(codes) == [200, 409]


def test_each_user_has_keys_of_their_own(start: Start) -> None:
    with start(authentication=True) as api:
        made = [keys.create(KeyRequest(owner=owner), api.services.database).key for owner in ("ada", "ada", "bob")]
        ids = [send(api, headers=HEADERS | {"Authorization": f"Bearer {key}"}).json()["dataset_id"] for key in made]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_none(shared: Api, key: str) -> None:
    answer = send(shared, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR")
