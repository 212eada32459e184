"""What Prometheus reads, over real HTTP, with Prometheus's own parser."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm_platform import keys
from llm_platform.specs.keys import KeyRequest
from tests.api.api_harness import CSV, Api, Start, wait_until


def scrape(api: Api, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.get(f"{api.url.removesuffix('/api/v1')}/metrics", headers=headers, trust_env=False)


def figures(api: Api) -> dict[tuple[str, ...], float]:
    """Each sample's value, by its name and the values of its labels in the order of the labels' names."""
    answer = scrape(api)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_what_is_counted(start: Start) -> None:
    with start(rate_limit_default=12) as api:
        before = figures(api)
        assert before["llm_platform_queue_depth",] == 0 and before["llm_platform_jobs", "pending"] == 0
        assert api.upload().status_code == 200
        assert [api.client.get("/jobs/job_none").status_code for _ in range(3)] == [404] * 3
        assert api.client.get("/no/such/path").status_code == 404
        api.put()
        api.orchestrator.open.clear()  # Dagster takes no run yet
        assert api.submit("counted").status_code == 200
        with api.client.stream("GET", "/logs/stream/counted") as response:
            lines = response.iter_lines()
            next(lines)
            found = figures(api)
        assert found["llm_platform_http_requests_total", "GET", "/api/v1/jobs/{job_id}", "404"] == 3
        assert found["llm_platform_http_requests_total", "GET", "none", "404"] == 1
        assert found["llm_platform_http_requests_total", "POST", "/api/v1/datasets/upload", "200"] == 1
        assert found["llm_platform_http_request_duration_seconds_count", "GET", "/api/v1/jobs/{job_id}"] == 3
        assert found["llm_platform_http_request_duration_seconds_sum", "POST", "/api/v1/datasets/upload"] > 0
        assert found["llm_platform_upload_bytes_total",] == len(CSV)
        assert (found["llm_platform_jobs", "pending"], found["llm_platform_queue_depth",]) == (1, 1)
        assert found["llm_platform_open_log_streams",] == 1
        assert found["llm_platform_rate_limited_requests_total",] == 0
        api.orchestrator.open.set()
        api.orchestrator.move("counted", "completed")
        wait_until(lambda: api.client.get("/jobs/job_counted").json().get("status", "refused") in ("completed", "refused"))
        registry = api.services.metrics.registry
        assert registry.get_sample_value("llm_platform_queue_depth") == 0
        assert {api.client.get("/jobs").status_code for _ in range(12)} >= {429}
        wait_until(lambda: registry.get_sample_value("llm_platform_rate_limited_requests_total"))
        wait_until(lambda: registry.get_sample_value("llm_platform_open_log_streams") == 0)


@pytest.fixture(scope="module")
def guarded(start: Start) -> Iterator[Api]:
    with start(authentication=True) as api:
        yield api


def test_figures_are_for_admins(guarded: Api) -> None:
    def headers(scope: str) -> dict[str, str]:
        request = KeyRequest.model_validate({"owner": "prometheus", "scope": scope})
        return {"Authorization": f"Bearer {keys.create(request, guarded.services.database).key}"}

    assert [scrape(guarded, given).status_code for given in (None, headers("read"), headers("write"), headers("admin"))] == [
        *(401, 403, 403),
        200,
    ]


def test_a_setting_opens_them(start: Start) -> None:
    with start(authentication=True, metrics_open=True) as api:
        assert scrape(api).status_code == 200
        assert api.client.get("/jobs").status_code == 401
