"""The demo's parts, each on its own; the whole is `make demo`."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llm_platform.client import LogLine, Model
from llm_platform.demo import report
from llm_platform.demo.pipeline import HELD_OUT_ROWS, TRAINING_ROWS, pipeline, write_data
from llm_platform.demo.server import Server
from llm_platform.demo.view import RunView
from llm_platform.errors import ServiceUnavailable
from llm_platform.specs import AgentClass, parse_pipeline
from llm_platform.supervisor.home import Home


def line(message: str, level: str = "INFO", agent: str = "TrainingAgent", **extra: Any) -> LogLine:
    known = {"run_id": "r", "timestamp": "2025-12-13T01:00:00Z", "agent": agent, "agent_name": agent.removesuffix("Agent").lower()}
    return LogLine.model_validate({**extra, **known, "level": level, "message": message})


def show(*lines: LogLine, terminal: bool = False) -> tuple[str, RunView]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with RunView(console) as view:
        for item in lines:
            view.show(item)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), view


def model(**metrics: float) -> Model:
    known = {"model_id": "model_r", "run_id": "r", "model_name": "m", "base_model": "b", "dataset_id": None, "training_config": {}}
    return Model.model_validate({**known, "metrics": metrics, "exports": {}, "created_at": "2025-12-13T01:00:00Z"})


def test_the_pipeline_is_one_that_the_platform_takes_and_uses_every_agent_class() -> None:
    checked = parse_pipeline(pipeline("ds_a", "ds_b"))
    assert [node.agent_class for node in checked.nodes] == list(AgentClass)


def test_held_out_messages_are_none_of_those_trained_on(tmp_path: Path) -> None:
    rows = [list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(keepends=True))) for path in write_data(tmp_path)]
    assert [len(found) for found in rows] == [TRAINING_ROWS, HELD_OUT_ROWS]
    training, held_out = ({row["question"] for row in found} for found in rows)
    assert not training & held_out
    assert all(row["answer"].startswith("Team: ") for row in rows[0])


@pytest.mark.parametrize("terminal", [False, True])
def test_the_view_shows_agents_messages_and_progress(terminal: bool) -> None:
    text, view = show(
        line("Dataset loaded: 2000 rows", agent="DatasetAgent"),
        line("pre-training: 400 of 1,000 (40%)"),
        line("Training on 8 rows [draft]", steps=10),
        line("step 5/10, loss 1.5", "METRIC", step=5, epoch=0.5, loss=1.5, eta_seconds=3.0),
        line("step 10/10, loss 0.5", "METRIC", step=10, epoch=1.0, loss=0.5),
        line("validation loss 0.4", "METRIC", step=10, epoch=1.0, validation_loss=0.4),
        line("it is hot", "WARN"),
        line("Sample answer", agent="EvaluationAgent", example={"prompt": "p", "reference": "r", "base": "b", "tuned": "t"}),
        terminal=terminal,
    )
    for shown in (
        "dataset",
        "Dataset loaded: 2000 rows",
        "pre-training",
        "[draft]",
        "training steps",
        "loss 0.500",
        "validation loss 0.4",
        "it is hot",
    ):
        assert shown in text
    assert "Sample answer" not in text
    assert view.losses == [1.5, 0.5]
    assert view.first_metric is not None
    assert view.examples == [{"prompt": "p", "reference": "r", "base": "b", "tuned": "t"}]


def test_off_a_terminal_progress_is_a_line_for_each_tenth() -> None:
    text, _ = show(line("Training", steps=1000), *(line("s", "METRIC", step=step, epoch=0.1, loss=1.0) for step in range(0, 1001, 10)))
    assert text.count("training steps") == 11
    assert "\x1b" not in text


def test_figures_answers_and_gain() -> None:
    console = Console(file=io.StringIO(), width=140)
    tuned = model(accuracy=0.97, f1=0.98, loss=0.02, perplexity=1.02, base_accuracy=0.0, base_f1=0.1, base_loss=5.0, base_perplexity=148.0)
    report.figures(console, tuned)
    prompt = "... appropriately completes the request.\n\n### Instruction:\nWhere is my parcel? [urgent]\n\n### Response:\n"
    report.answers(console, [{"prompt": prompt, "reference": "Team: Delivery", "base": "the the", "tuned": "Team: Delivery"}])
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for shown in ("exact answers", "0.970", "148.000", "Where is my parcel? [urgent]", "Team: Delivery", "the the"):
        assert shown in text
    assert "Instruction" not in text
    assert report.gain(tuned) == pytest.approx(0.97)
    assert report.gain(model(accuracy=0.4, base_accuracy=0.3)) == pytest.approx(0.1)


def test_exports_and_what_they_answered() -> None:
    gate = {"accepted": True, "runtime": "llama.cpp", "agreement": 1.0, "rows": 20, "logit_difference": 0.000657}
    _, view = show(
        line("gguf.f16 is accepted", agent="ExportAgent", export="gguf.f16", gate=gate),
        line("merged is rejected", "WARN", agent="ExportAgent", export="merged", gate={**gate, "accepted": False, "agreement": 0.5}),
    )
    console = Console(file=io.StringIO(), width=140)
    report.exports(console, view.gates)
    assert isinstance(console.file, io.StringIO)
    rows = [" ".join(row.split()) for row in console.file.getvalue().splitlines()]
    assert "│ gguf.f16 │ llama.cpp │ 100% of 20 │ 0.00066 nats │ accepted │" in rows
    assert "│ merged │ llama.cpp │ 50% of 20 │ 0.00066 nats │ rejected │" in rows


def test_a_platform_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    with Home(tmp_path), Server(tmp_path) as server, pytest.raises(ServiceUnavailable) as caught:
        server.start()
    assert "A platform already runs on" in " ".join(caught.value.message.split())


def test_a_server_that_was_not_started_has_no_address(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert server.address("api") is None
