from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from llm_platform.registry import DatasetInput, RegisteredModel, Registry, card
from llm_platform.registry.card_page import STYLE_SHA256, card_page
from llm_platform.registry.charts import MOST_BYTES, Charts, charts_of
from llm_platform.registry.lineage import head, lineage
from llm_platform.specs.comparison import ComparedModel, Comparison, Cost, Difference, Interval, Promotion
from llm_platform.specs.gate import GateResult
from llm_platform.training.result import TrainingResult

MODEL = RegisteredModel(
    model_id="model_demo",
    run_id="demo",
    agent_name="train",
    model_name="tickets-tuned",
    version="3",
    base_model="meta-llama/Llama-2-7b-hf",
    mlflow_run_id="0" * 32,
    datasets=[DatasetInput(name="tickets.csv", digest="a1" * 32, source_address="s3://datasets/t.csv", rows=12345, dataset_id="ds_1")],
    training_config={"method": "lora", "lora_r": 16, "learning_rate": 2e-4, "target_modules": ["q_proj", "v_proj"], "max_steps": None},
    metrics={"accuracy": 0.92, "f1": 0.89, "final_loss": 0.42, "base_accuracy": 0.01, "base_f1": 0.2},
    exports={"merged": "s3://artifacts/demo/merged"},
    export_digests={"merged": "b2" * 32},
    created_at=datetime(2026, 11, 24, 8, 30, tzinfo=UTC),
    tags={"base_license": "llama2", "preprocessing_funnel": '{"read": 12345, "unique": 12000, "train": 9600}', "config_digest": "c3" * 32},
)


def changed(**changes: Any) -> RegisteredModel:
    return MODEL.model_copy(update=changes)


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table that starts with the cell `first`."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {first} |"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return table


def test_it_is_a_card_as_hugging_face_reads_it() -> None:
    data = ModelCard(card(MODEL)).data.to_dict()
    (results,) = data.pop("model-index")
    assert results["name"] == "tickets-tuned"
    figures = [metric for result in results["results"] for metric in result["metrics"]]
    assert [(metric["type"], metric["value"]) for metric in figures] == [("accuracy", 0.92), ("f1", 0.89)]
    assert {result["task"]["type"] for result in results["results"]} == {"text-generation"}
    assert data == {
        "base_model": "meta-llama/Llama-2-7b-hf",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "llama2",
        "metrics": ["accuracy", "f1"],
        "pipeline_tag": "text-generation",
        "tags": ["llm-platform", "fine-tuned", "lora"],
    }


def test_it_has_what_the_specification_shows() -> None:
    text = card(MODEL)
    assert "\n# tickets-tuned\n\n## Model Description\n\nThis model was fine-tuned from `meta-llama/Llama-2-7b-hf`" in text
    assert "\n## Training Configuration\n" in text
    assert "\n## Evaluation Metrics\n" in text


def test_its_figures_are_the_registry_s() -> None:
    text = card(MODEL)
    assert rows(text, "Metric")[2:] == [
        ["accuracy", "0.01", "0.92"],
        ["f1", "0.2", "0.89"],
        ["final_loss", "not measured", "0.42"],
    ]
    assert rows(text, "Setting")[2:] == [
        ["method", "`lora`"],
        ["lora_r", "`16`"],
        ["learning_rate", "`0.0002`"],
        ["target_modules", '`["q_proj", "v_proj"]`'],
        ["max_steps", "`null`"],
    ]
    assert rows(text, "Dataset")[2] == ["tickets.csv (`ds_1`)", "12,345", "`s3://datasets/t.csv`", f"`{'a1' * 32}`"]
    assert rows(text, "Step")[2:] == [["read", "12,345"], ["unique", "12,000"], ["train", "9,600"]]
    assert rows(text, "Export")[2] == ["merged", "`s3://artifacts/demo/merged`", f"`{'b2' * 32}`"]
    assert f"`config_digest`: `{'c3' * 32}`" in text


def test_figures_have_their_intervals_and_counts() -> None:
    bounds = {"accuracy": Interval(low=0.8812, high=0.95, count=1200), "base_accuracy": Interval(low=0, high=0.02, count=1200)}
    text = card(changed(intervals=bounds))
    assert rows(text, "Metric") == [
        ["Metric", "Base model", "This model", "Rows"],
        ["---|---:|---:|---:"],
        ["accuracy", "0.01 (0 to 0.02)", "0.92 (0.881 to 0.95)", "1,200"],
        ["f1", "0.2", "0.89", ""],
        ["final_loss", "not measured", "0.42", ""],
    ]
    assert "95% bootstrap intervals" in text and "95%" not in card(MODEL)
    data: Any = ModelCard(text).data
    assert data.eval_results[0].metric_args == {"interval_95": [0.8812, 0.95], "rows": 1200}


def test_a_model_that_was_not_evaluated_says_so() -> None:
    nothing = card(changed(metrics={}))
    assert "**This model was not evaluated.**" in nothing
    trained = card(changed(metrics={"final_loss": 0.42}))
    assert rows(trained, "Metric")[2:] == [["final_loss", "0.42"]]
    assert "**The model was not evaluated**" in trained
    assert "not evaluated" not in card(MODEL)


def test_an_unknown_licence_is_not_invented() -> None:
    text = card(changed(tags={}))
    assert "The licence of the base model is not known to the platform." in text
    assert "license" not in ModelCard(text).data.to_dict()
    assert "The licence of the base model is `llama2`" in card(MODEL)


def test_how_to_load_it_is_python() -> None:
    for model in (MODEL, changed(base_model="llm-platform/tiny-llama"), changed(base_model='quo"te\\n')):
        blocks = card(model).split("```python\n")[1:]
        assert len(blocks) == 3
        for block in blocks:
            compile(block.split("```")[0], "card", "exec")
    assert "./merged" not in card(changed(exports={}, export_digests={}))
    assert "resolve(" in card(changed(base_model="llm-platform/tiny-llama"))


def test_a_full_model_needs_no_adapter() -> None:
    text = card(changed(training_config={"method": "full"}))
    assert "PeftModel" not in text
    assert "adapter: it works" not in text
    assert ModelCard(text).data.to_dict()["library_name"] == "transformers"


def test_a_record_with_nothing_in_it() -> None:
    text = card(changed(datasets=[], training_config={}, metrics={}, exports={}, export_digests={}, tags={}))
    assert "no record of the data" in text
    assert "no record of the configuration" in text


@pytest.mark.parametrize(
    "nasty",
    [
        "x\n# Injected\n---\nlicense: mit",
        "a|b|c",
        "`code` ``more`` ```fence```",
        "<script>alert(1)</script>",
        "[link](javascript:alert(1)) ![i](http://x/y)",
        "*bold* _it_ ~~s~~ $x$ &lt; \\",
        "{{ 1234567 * 3 }}{% raw %}",
        "---\n",
        "```\n# Injected\n```",
    ],
)
def test_names_cannot_break_the_card(nasty: str) -> None:
    dataset = DatasetInput(name=nasty, digest=nasty, source_address=nasty, rows=1)
    text = card(
        changed(
            model_name=nasty,
            base_model=nasty,
            agent_name=nasty,
            run_id=nasty,
            datasets=[dataset],
            training_config={nasty: nasty, "method": "lora"},
            exports={"merged": nasty},
            export_digests={"merged": nasty},
            tags={"x": nasty, "base_license": nasty},
        )
    )
    body = ModelCard(text).text
    plain = ModelCard(card(changed(tags={"x": "y", "base_license": "z"}))).text

    def headings(markdown: str) -> list[str]:
        return [line for line in markdown.splitlines() if line.startswith("## ")]

    assert headings(body) == headings(plain)
    assert "# Injected" not in [line.strip() for line in body.splitlines()]
    blocks = body.split("```python")
    outside = blocks[0] + blocks[-1].split("```\n")[-1]
    assert "<script>" not in outside.replace("`<script>alert(1)</script>`", "")
    assert "3703701" not in outside
    data = ModelCard(text).data.to_dict()
    assert data["license"] == nasty
    assert data["tags"] == ["llm-platform", "fine-tuned", "lora"]
    table = text[text.index("| Setting |") :].split("\n\n")[0].splitlines()
    assert len(table) == 4
    unescaped = [row.replace("\\|", "").count("|") for row in table]
    assert unescaped == [3, 3, 3, 3]


TRAINED = TrainingResult(
    steps=120,
    epochs=1.5,
    final_loss=0.42,
    validation_loss=None,
    trainable_parameters=1000,
    total_parameters=50_000,
    tokens=123_456,
    seconds=36.25,
    tokens_per_second=3400.0,
    peak_memory_mb=512.0,
    resumed_from=None,
    kept_step=120,
    stopped_early=False,
    losses=[],
    validation_losses=[],
    device="cpu",
    versions={"torch": "2.13.0"},
)
COMPARED = Comparison(
    baseline="model_old",
    examples=40,
    models=[
        ComparedModel(
            model_id=name, metrics={"accuracy": value}, intervals={"accuracy": Interval(low=value - 0.1, high=value, count=40)}, cost=Cost()
        )
        for name, value in (("model_old", 0.5), ("model_demo", 0.75))
    ],
    differences=[
        Difference(
            model_id="model_demo",
            differences={"accuracy": 0.25},
            intervals={"accuracy": Interval(low=0.1, high=0.4, count=40)},
            to_right=11,
            to_wrong=1,
            right_examples=[],
            wrong_examples=[],
        )
    ],
)
PROMOTED = Promotion(
    model_id="model_demo", against="model_old", metric="accuracy", gain=0.25, regressions=1, holds=True, promoted=True, reasons=[]
)
GATE = GateResult(
    runtime="llama.cpp",
    accepted=False,
    reasons=["agreement is 80%"],
    split="test",
    rows=50,
    agreement=0.8,
    required_agreement=0.95,
    same_end=0.9,
    logit_difference=0.25,
    allowed_logit_difference=0.1,
    same_tokens=1.0,
    same_template=True,
    seconds=1.0,
)


def full() -> RegisteredModel:
    """A model of which everything is known."""
    tags = {
        "preprocessing": json.dumps({"template": "alpaca", "max_length": 512, "system_prompt": None, "seed": 7}),
        "contamination": json.dumps({"checked": 200, "overlapping": 3, "near_duplicates": 1, "examples": []}),
        "training": TRAINED.model_dump_json(exclude={"losses", "validation_losses"}),
        "comparison": json.dumps({"metric": "accuracy", "comparison": COMPARED.model_dump(), "promotion": PROMOTED.model_dump()}),
        "base_files": json.dumps({"model.safetensors": "e5" * 32}),
        "splits_sha256": "f6" * 32,
    }
    exports = {"gguf": "s3://artifacts/demo/gguf"}
    bounds = {"accuracy": Interval(low=0.85, high=0.95, count=200), "base_accuracy": Interval(low=0, high=0.02, count=200)}
    gates = {"gguf.q8_0": GATE, "gguf.f16": GATE.model_copy(update={"accepted": True, "reasons": []})}
    digests = {"gguf": "d4" * 32}
    known = {"intervals": bounds, "gates": gates, "exports": exports, "export_digests": digests, "aliases": ["champion"]}
    return changed(tags={**MODEL.tags, **tags}, description="The team's choice.", **known)


def test_it_says_what_the_registry_knows() -> None:
    text = card(full())
    assert "The team's choice." in text and "version 3 (`champion`)" in text
    assert "written with the template `alpaca`, of at most 512 tokens" in text and "## Intended Use" in text
    assert rows(text, "Preprocessing")[2:] == [["template", "`alpaca`"], ["max_length", "`512`"], ["seed", "`7`"]]
    assert "Of 200 test rows, **3** have a run of 13 words" in text and "**1** are nearly the same" in text
    figures = {row[0]: row[1] for row in rows(text, "Training")[2:]}
    assert figures["device"] == "cpu" and figures["steps (epochs)"] == "120 (1.50)" and figures["torch"] == "2.13.0"
    assert figures["trained weights"] == "1,000 of 50,000"
    assert rows(text, "Model")[2:] == [
        ["model_old", "0.5 (0.4 to 0.5)", "baseline", ""],
        ["model_demo", "0.75 (0.65 to 0.75)", "0.25 (0.1 to 0.4)", "11 right, 1 wrong"],
    ]
    assert "`model_demo` passed the gate and became the champion, against `model_old`" in text
    (rejected, accepted) = rows(text, "Gate")[2:]
    assert rejected[:4] == ["gguf.q8_0", "llama.cpp", "**rejected**: agreement is 80%", "50"] and accepted[2] == "accepted"
    assert "llama-cli -m ./gguf/model-f16.gguf" in text, "what the gate rejected is not offered"
    assert 'mlflow.pyfunc.load_model("models:/tickets-tuned/3")' in text
    data = ModelCard(text).data.to_dict()
    assert data["license"] == "llama2" and data["base_model_relation"] == "adapter"


def test_its_lineage_is_the_chain_of_hashes() -> None:
    model = full()
    links = lineage(model)
    table = {row[0]: row for row in rows(card(model), "Link")[2:]}
    assert table["rows prepared"][1:3] == ["table tickets.csv, base model meta-llama/Llama-2-7b-hf", f"`{'f6' * 32}`"]
    assert table["dataset tickets.csv"][2] == "not recorded" and len(table) == len(links)
    assert head(links) in card(model) and "llm-platform verify model_demo" in card(model)
    other = lineage(model.model_copy(update={"tags": {**model.tags, "base_files": json.dumps({"model.safetensors": "00" * 32})}}))
    changed_links = {link.kind for link, was in zip(other, links, strict=True) if link.hash != was.hash}
    assert changed_links == {"base model", "rows", "weights", "registered", "export"}


def test_its_charts_are_pictures_within_it(tmp_path: Path) -> None:
    class Known(Registry):
        def curve(self, model: RegisteredModel, key: str) -> list[tuple[int, float]]:
            return [(step, 1 / (step + 1)) for step in range(5000 if key == "loss" else 3)]

    charts = charts_of(full(), Known(f"sqlite:///{tmp_path / 'mlflow.db'}"))
    text = card(full(), charts)
    pictures = [base64.b64decode(found) for found in re.findall(r"\(data:image/png;base64,([^)]+)\)", text)]
    assert len(pictures) == 3 and all(picture.startswith(b"\x89PNG") and len(picture) <= MOST_BYTES for picture in pictures)
    assert ModelCard(text).data.to_dict()["library_name"] == "peft"
    none = charts_of(changed(metrics={}), NoCurve(f"sqlite:///{tmp_path / 'mlflow.db'}"))
    assert none == Charts() and "data:image" not in card(MODEL, none)
    page = card_page(text)
    assert page.count('<img src="data:image/png;base64,') == 3 and "<h1>tickets-tuned</h1>" in page and "library_name: peft" in page


class NoCurve(Registry):
    def curve(self, model: RegisteredModel, key: str) -> list[tuple[int, float]]:
        return []


@pytest.mark.parametrize("nasty", ["<script>alert(1)</script>", "[x](javascript:alert(1))", '"><img src=x onerror=alert(1)>', "</title>"])
def test_the_page_runs_nothing_that_somebody_wrote(nasty: str) -> None:
    found = changed(model_name=nasty, base_model=nasty, description=nasty, training_config={nasty: nasty}, tags={"x": nasty})
    page = card_page(card(found))

    class Seen(HTMLParser):
        tags: list[str] = []
        attributes: list[tuple[str, str | None]] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            self.attributes += attrs

    seen = Seen()
    seen.feed(page)
    assert "script" not in seen.tags and "img" not in seen.tags and "a" not in seen.tags
    assert {name for name, _ in seen.attributes} <= {"lang", "charset", "class"}
    assert base64.b64encode(hashlib.sha256(page.split("<style>")[1].split("</style>")[0].encode()).digest()).decode() == STYLE_SHA256
