"""A disk with less room than the operator wants: nothing new is taken, what is there is still shown."""

from __future__ import annotations

import pytest

from tests.api.api_harness import CSV, Start
from tests.api.test_api_metrics import figures


def test_nothing_new_is_taken(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with start() as api:
        api.put()
        assert api.submit("before").status_code == 200
        assert api.client.get("/health").json()["services"]["disk"] == "disabled"
        assert figures(api)["llm_platform_disk_free_bytes",] > 0
        home = api.services.settings.root
    with start(home=home, min_free_bytes=2**62) as api:
        before = api.counts()
        for answer in (api.upload(CSV), api.submit("after")):
            assert (answer.status_code, answer.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
            assert "nearly full" in answer.json()["message"] and str(home) not in answer.text
        assert api.counts() == before and api.nothing_left()
        assert api.submit("before").status_code == 200, "this job is there already"
        health = api.client.get("/health")
        assert health.status_code == 503 and health.json()["services"]["disk"] == "unhealthy"
    told = [record.getMessage() for record in caplog.records if "Service disk" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith("Service disk is unhealthy: The platform's disk is nearly full")
