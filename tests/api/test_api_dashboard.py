"""The Grafana dashboard asks for what the API really says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import httpx
from prometheus_client.parser import text_string_to_metric_families

from llm_platform.specs.resources import JobStatus
from tests.api.api_harness import Api

DASHBOARD: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docker/grafana/llm-platform.json").read_text())
SELECTED = re.compile(r"(llm_platform_\w+)\{([^}]*)\}")
LABEL = re.compile(r'(\w+)(?:=|!=|=~|!~)"')
OF_PROMETHEUS = {"instance", "job"}
"""Labels that the one who scrapes gives."""


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_each_figure_and_label_of_it_is_there(shared: Api) -> None:
    assert shared.client.get("/jobs").status_code == 200
    text = httpx.get(f"{shared.url.removesuffix('/api/v1')}/metrics", trust_env=False).text
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    for expression in expressions():
        named = re.findall(r"llm_platform_\w+", expression)
        selected = SELECTED.findall(expression)
        assert named and len(named) == len(selected), f"{expression}: each figure is of chosen processes"
        for name, chosen in selected:
            assert name in labels, f"/metrics has no {name}"
            assert set(LABEL.findall(chosen)) <= labels[name] | OF_PROMETHEUS, expression
            for group in re.findall(r"by \(([^)]*)\)", expression):
                assert set(group.split(", ")) <= labels[name] | OF_PROMETHEUS, expression
        for states in re.findall(r'status=~?"([a-z|]+)"', expression):
            assert set(states.split("|")) <= set(get_args(JobStatus)), expression
    shown = {name for expression in expressions() for name in re.findall(r"llm_platform_\w+", expression)}
    figures = {name for name in labels if name.startswith("llm_platform_") and not name.endswith("_created")}
    assert {_family(name) for name in figures} == {_family(name) for name in shown}, "no figure is left out"


def _family(name: str) -> str:
    return re.sub("_(bucket|sum|count)$", "", name)


def test_it_can_be_imported_anywhere() -> None:
    """With the Prometheus of who imports it, and panels that do not overlap."""
    variables = {item["name"]: item for item in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])} == {"${datasource}"}
        place = panel["gridPos"]
        mine = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not mine & cells and max(x for x, _ in mine) < 24, panel["title"]
        cells |= mine
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
