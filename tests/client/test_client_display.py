"""What a person sees of the SDK: tables in a notebook, bars in a terminal."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_platform import AsyncClient, Client
from llm_platform.client import Comparison, Model, Page, progress
from llm_platform.client.models import ModelView
from llm_platform.client.progress import JobBar
from llm_platform.specs import resources
from tests.client.conftest import DATASET, MODEL, Seen, new_job

EVIL = "<script>alert('&\"')</script>"
SAFE = "&lt;script&gt;alert(&#x27;&amp;&quot;&#x27;)&lt;/script&gt;"
CONFIG = {"nodes": [], "edges": []}


class Terminal(io.StringIO):
    """A stderr that somebody watches."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What the lines show in the end, each written over from its beginning as often as there was a carriage return."""
        shown = []
        for line in self.getvalue().split("\n"):
            screen = ""
            for written in line.split("\r"):
                screen = written + screen[len(written) :]
            shown.append(screen.rstrip())
        return shown


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    found = Terminal()
    look(monkeypatch, found)
    return found


def look(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, *modules: str) -> None:
    """Shows the bars where the test sees them; pytest itself has the real stderr."""
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stderr, modules=modules))


class Cells(HTMLParser):
    """The caption and the rows of a table as a browser would read them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.caption = ""
        self.rows: list[list[str]] = []
        self._into: Callable[[str], None] = lambda _: None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not attrs
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._into = self._cell
        elif tag == "caption":
            self._into = self._title

    def handle_data(self, data: str) -> None:
        self._into(data)

    def _cell(self, data: str) -> None:
        self.rows[-1][-1] += data

    def _title(self, data: str) -> None:
        self.caption += data


def cells(shown: Any) -> Cells:
    found = Cells(shown._repr_html_())
    assert found.tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    return found


def compared(model_id: str, **metrics: float) -> dict[str, Any]:
    return {"model_id": model_id, "metrics": metrics, "intervals": {}, "cost": {}}


def against(model_id: str, **differences: float) -> dict[str, Any]:
    flips: dict[str, Any] = {"to_right": None, "to_wrong": None, "right_examples": [], "wrong_examples": []}
    return {"model_id": model_id, "differences": differences, "intervals": {}, **flips}


def test_a_model_shows_its_fields_and_leaves_out_what_is_not_there() -> None:
    shown = cells(Model.model_validate(MODEL))
    assert shown.caption == "Model"
    found = dict(shown.rows)
    assert found["model_id"] == "model_abc123" and found["created_at"] == "2025-12-13 01:00:00+00:00"
    assert found["metrics"] == "accuracy 0.92, f1 0.89, final_loss 0.42"
    assert found["training_config"].startswith("method qlora, lora_r 16") and found["training_config"].endswith("learning_rate 0.0002")
    assert found["exports"] == "adapter, merged"
    assert "aliases" not in found, "it has none"
    without = MODEL | {"dataset_id": None, "metrics": {}, "aliases": ["champion", "best"]}
    names = dict(cells(ModelView.model_validate(without)).rows)
    assert not {"dataset_id", "metrics"} & names.keys() and names["aliases"] == "champion, best"


def test_no_field_of_a_model_is_markup() -> None:
    names = ("model_name", "base_model", "dataset_id")
    evil = MODEL | dict.fromkeys(names, EVIL) | {"metrics": {EVIL: 1.0}, "training_config": {EVIL: EVIL}, "exports": {EVIL: "s3://a/b"}}
    model = Model.model_validate(evil | {"aliases": [EVIL]})
    found = dict(cells(model).rows)
    assert all(found[name] == EVIL for name in (*names, "exports", "aliases"))
    assert (found["metrics"], found["training_config"]) == (f"{EVIL} 1", f"{EVIL} {EVIL}")
    assert model._repr_html_().count(SAFE) == 8


def test_what_both_clients_give_shows_as_a_table(client: Client, base_url: str, seen: Seen) -> None:
    async def other() -> tuple[str, str]:
        async with AsyncClient(base_url) as found:
            return (await found.models.get("model_abc123"))._repr_html_(), (await found.models.list())._repr_html_()

    assert asyncio.run(other()) == (client.models.get("model_abc123")._repr_html_(), client.models.list()._repr_html_())
    client.jobs.create({**CONFIG, "run_id": "abc123"})
    (head, row) = cells(client.jobs.list()).rows
    assert head == ["job_id", "status", "created_at", "progress", "agent", "model_id", "ended_at"]
    assert row == ["job_abc123", "running", "2025-12-13 01:00:00+00:00", "2 of 3", "preprocessing", "", ""]


def test_a_page_shows_which_items_it_has_and_their_short_fields() -> None:
    items = [resources.Dataset.model_validate(DATASET | {"rows": rows}, extra="ignore") for rows in (7, 8)]
    shown = cells(Page(items, 41, 2, 5, True))
    assert shown.caption == "6 to 7 of 41"
    head, *rows = shown.rows
    assert "columns" not in head, "a list is no short field"
    assert [row[head.index("rows")] for row in rows] == ["7", "8"]
    assert [row[head.index("filename")] for row in rows] == ["training_data.csv"] * 2
    empty = cells(Page([], 0, 20, 0, False))
    assert (empty.caption, empty.rows) == ("0 to 0 of 0", [[]])


def test_no_item_of_a_page_is_markup_and_a_long_one_is_cut() -> None:
    items = [resources.Dataset.model_validate(DATASET | {"filename": name}, extra="ignore") for name in (EVIL, "<" * 300)]
    page = Page(items, 2, 20, 0, False)
    head, evil, long = cells(page).rows
    assert evil[head.index("filename")] == EVIL and SAFE in page._repr_html_()
    assert long[head.index("filename")] == "<" * 200 + "…"
    assert cells(Page([resources.Page[Any](items=[], total=1, limit=1, offset=0, has_more=False)], 1, 1, 0, False)).rows[0][0] == "total"


def test_a_comparison_shows_figures_and_what_each_gains_against_the_baseline() -> None:
    models = [compared("model_a", exact_match=0.5, loss=1.23456), compared("model_b", exact_match=0.75), compared("model_c", loss=2)]
    differences = [against("model_b", exact_match=0.25), against("model_c", loss=0.76544, f1=1)]
    given = {"baseline": "model_a", "examples": 40, "models": models, "differences": differences}
    shown = cells(Comparison.model_validate(given))
    assert shown.caption == "40 examples; differences are against model_a"
    assert shown.rows == [
        ["model", "exact_match", "loss"],
        ["model_a", "0.5", "1.235"],
        ["model_b", "0.75 (+0.25)", ""],
        ["model_c", "", "2 (+0.765)"],
    ]


def test_nothing_in_a_comparison_is_markup() -> None:
    models = [compared(EVIL, **{EVIL: 1.0})]
    comparison = Comparison.model_validate({"baseline": EVIL, "examples": 1, "models": models, "differences": []})
    shown = cells(comparison)
    assert (shown.caption, shown.rows) == (f"1 examples; differences are against {EVIL}", [["model", EVIL], [EVIL, "1"]])
    assert comparison._repr_html_().count(SAFE) == 3


def test_a_job_that_failed_shows_why_and_no_name_in_it_is_markup(client: Client, seen: Seen) -> None:
    job = client.jobs.create(CONFIG)
    nodes = [seen.jobs[job.job_id]["nodes"][0] | {"agent_name": EVIL}]
    result = {"error": {"error": "TRAINING_ERROR", "message": EVIL, "metadata": {}}, "metrics": {EVIL: {EVIL: 0.5}}}
    seen.finish(job.job_id, "failed", result=result, nodes=nodes)
    found = dict(cells(job.refresh()).rows)
    assert found[f"node {EVIL}"] == "completed after 1.5 s, attempt 2"
    assert found[f"metrics of {EVIL}"] == f"{EVIL} 0.5"
    assert found["error"] == EVIL


def test_an_upload_draws_a_bar_that_ends_full(client: Client, tmp_path: Path, terminal: Terminal) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text\n" + b"x" * 2_400_000)
    client.datasets.upload(path)
    assert terminal.lines() == [f"Uploading rows.csv  [{'#' * 30}]  2.4 of 2.4 MB", ""]
    steps = re.findall(r"\rUploading rows\.csv  \[(#*)(\.*)\]  ([\d.]+) of 2\.4 MB", terminal.getvalue())
    assert len(steps) > 3, "it was drawn while the file was read"
    assert all(len(done) + len(left) == 30 for done, left, _ in steps)
    sent = [float(megabytes) for *_, megabytes in steps]
    assert sent == sorted(sent) and sent[0] < 2.4


def test_whoever_is_told_of_an_uploads_progress_gets_no_bar(client: Client, tmp_path: Path, terminal: Terminal) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text\nx\n")
    told: list[tuple[int, int]] = []
    client.datasets.upload(path, on_progress=lambda sent, total: told.append((sent, total)))
    assert told[-1] == (7, 7) and terminal.getvalue() == ""


@pytest.mark.parametrize("modules", [(), ("ipykernel",)], ids=["nobody", "notebook"])
def test_bars_are_drawn_in_a_notebook_and_where_nobody_watches_not_at_all(
    client: Client, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modules: tuple[str, ...]
) -> None:
    stderr = io.StringIO()
    look(monkeypatch, stderr, *modules)
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text\nx\n")
    client.datasets.upload(path)
    job = client.jobs.create(CONFIG)
    seen.finish(job.job_id)
    client.jobs.wait(job)
    assert [bool(re.search(what, stderr.getvalue())) for what in ("Uploading rows.csv", f"{job.job_id} .* completed\n")] == [
        bool(modules)
    ] * 2


def test_a_jobs_bar_is_one_line_that_says_how_far_it_is(terminal: Terminal) -> None:
    bar = JobBar()
    total = {"completed_agents": [], "current_agent": "a_node_with_a_long_name", "total_agents": 3}
    bar.show(seen_job("running", total))
    assert terminal.lines() == [f"job_a  [{'.' * 30}]  0 of 3  a_node_with_a_long_name"]
    bar.show(seen_job("running", total | {"completed_agents": ["x"], "current_agent": "b"}))
    assert terminal.lines() == [f"job_a  [{'#' * 10}{'.' * 20}]  1 of 3  b"], "nothing is left of the longer line before"
    bar.show(seen_job("failed", total | {"completed_agents": ["x", "y"]}))
    assert terminal.lines() == [f"job_a  [{'#' * 20}{'.' * 10}]  2 of 3  failed", ""]


def test_a_job_without_nodes_has_a_bar_too(terminal: Terminal) -> None:
    JobBar().show(seen_job("pending", {"completed_agents": [], "current_agent": None, "total_agents": 0}))
    assert terminal.lines() == [f"job_a  [{'.' * 30}]  0 of 0  pending"]


def test_waiting_draws_the_bar_unless_somebody_looks_himself(client: Client, base_url: str, seen: Seen, terminal: Terminal) -> None:
    job = client.jobs.create(CONFIG)
    seen.finish(job.job_id)
    client.jobs.wait(job, on_update=lambda _: None)
    assert terminal.getvalue() == ""
    client.jobs.wait(job)

    async def other() -> None:
        async with AsyncClient(base_url) as found:
            await found.jobs.wait(job.job_id)

    asyncio.run(other())
    assert terminal.lines() == [f"{job.job_id}  [{'#' * 20}{'.' * 10}]  2 of 3  completed"] * 2 + [""]


def seen_job(status: str, progress: dict[str, Any]) -> resources.Job:
    return resources.Job.model_validate(new_job("a") | {"status": status, "progress": progress})
