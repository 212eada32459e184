"""Prompts from rows, by Jinja templates in a sandbox that lets no template reach or change anything."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import polars as pl
from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llm_platform.data.cells import as_text
from llm_platform.specs import TemplateMapping

_FOLDER = Path(__file__).parent / "templates"


@cache
def _template(name: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(_FOLDER), undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    return environment.get_template(f"{name}.jinja")


def slots(frame: pl.DataFrame, mapping: TemplateMapping) -> pl.DataFrame:
    """The mapped columns as text, named instruction, input and output; input is empty where nothing is mapped to it."""
    columns = {"instruction": mapping.instruction, "input": mapping.input, "output": mapping.output}
    found = pl.DataFrame({slot: frame[column] for slot, column in columns.items() if column is not None})
    texts = found.select(as_text(slot, kind).alias(slot) for slot, kind in found.schema.items())
    return texts if mapping.input is not None else texts.with_columns(input=pl.lit(""))


def render_slots(frame: pl.DataFrame, template: str = "alpaca") -> pl.DataFrame:
    """The columns `prompt` and `completion`, row by row, from the text columns instruction, input and output."""
    render = _template(template).render
    rows = frame.select(pl.col("instruction", "input", "output").fill_null("")).iter_rows()
    prompts: list[str] = []
    completions: list[str] = []
    for instruction, given, output in rows:
        prompts.append(render(instruction=instruction, input=given))
        completions.append(output)
    return pl.DataFrame({"prompt": prompts, "completion": completions}, schema={"prompt": pl.String, "completion": pl.String})


def render_prompts(df: pl.DataFrame, mapping: TemplateMapping, template: str = "alpaca") -> pl.DataFrame:
    """The columns `prompt` and `completion` for the rows of `df`, in order. The prompt ends where the answer begins."""
    return render_slots(slots(df, mapping), template)
