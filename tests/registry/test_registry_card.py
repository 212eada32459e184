from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from huggingface_hub import ModelCard

from llm_platform.registry import DatasetInput, RegisteredModel, card
from llm_platform.specs.comparison import Interval

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
    assert data == {
        "base_model": "meta-llama/Llama-2-7b-hf",
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
        assert len(blocks) == 2
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
        "{{ 7 * 7 }}{% raw %}",
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
    assert "49" not in outside
    data = ModelCard(text).data.to_dict()
    assert data["license"] == nasty
    assert data["tags"] == ["llm-platform", "fine-tuned", "lora"]
    table = text[text.index("| Setting |") :].split("\n\n")[0].splitlines()
    assert len(table) == 4
    unescaped = [row.replace("\\|", "").count("|") for row in table]
    assert unescaped == [3, 3, 3, 3]
