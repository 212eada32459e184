"""What preprocessing says about itself: how many rows each stage left, and why the others went."""

from __future__ import annotations

import json
from pathlib import Path

from llm_platform.data import charts
from llm_platform.data.contamination import Contamination
from llm_platform.data.layout import Layout
from llm_platform.reporting import Reporter
from llm_platform.specs.base import Resource
from llm_platform.specs.resources import HistogramBin

FILE = "preprocessing.json"


class PreprocessingReport(Resource):
    """What became of the rows. Lengths are in tokens, over the rows of all splits.

    `funnel` has the rows left after each stage: `in`, `cleaned`, `deduplicated`, `fitting`, and then each split's. `left_out`
    are rows bound to one of a split that an input is by itself; `truncated` rows were cut and stay. `digest` addresses the
    result by its inputs: tables, config, tokenizer and code version.
    """

    layout: Layout
    columns: dict[str, str]
    rows_in: int
    funnel: dict[str, int]
    cleaned: dict[str, int]
    duplicates: int
    near_duplicates: int
    too_long: int
    truncated: int
    no_trainable_token: int
    left_out: int
    splits: dict[str, int]
    tokens: dict[str, int]
    trainable_tokens: int
    mean_length: float
    max_length: int
    lengths: list[HistogramBin]
    contamination: Contamination | None
    tokenizer_digest: str
    digest: str

    def tell(self, reporter: Reporter) -> None:
        """The figures, as lines of the log."""
        splits = ", ".join(f"{name} {rows:,}" for name, rows in self.splits.items())
        parts = [
            f"{self.rows_in:,} rows in",
            f"{self.cleaned.get('empty_rows', 0):,} empty rows removed",
            f"{self.duplicates:,} duplicates and {self.near_duplicates:,} near-duplicates removed",
            f"{self.too_long:,} too long",
            f"{self.truncated:,} truncated",
            f"{self.no_trainable_token:,} without a trainable token",
            f"splits: {splits}",
            f"{sum(self.tokens.values()):,} tokens, {self.trainable_tokens:,} of them trained",
        ]
        reporter.info("; ".join(parts), splits=self.splits, tokens=self.tokens)
        changed = ", ".join(f"{rule} {count:,}" for rule, count in self.cleaned.items() if count and rule != "empty_rows")
        if changed:
            reporter.info(f"Cells changed by cleaning: {changed}", cleaned=self.cleaned)
        if self.left_out:
            reporter.warn(f"{self.left_out:,} rows left out: they repeat, or nearly repeat, rows of a given validation or test input")
        found = self.contamination
        if found and found.overlapping:
            reporter.warn(
                f"{found.overlapping:,} of {found.checked:,} test prompts have a run of 13 words in common with a training prompt",
                examples=[example.model_dump() for example in found.examples[:3]],
            )


def read_report(folder: Path) -> PreprocessingReport:
    """The report that `preprocess` left in the folder."""
    return PreprocessingReport.model_validate(json.loads((folder / FILE).read_text(encoding="utf-8")))


def funnel_png(report: PreprocessingReport) -> bytes:
    """How many rows each stage left, as a small PNG."""
    return charts.rows(list(report.funnel), list(report.funnel.values()), title="Rows left after each stage")


def lengths_png(report: PreprocessingReport) -> bytes:
    """The histogram of the rows' lengths as a small PNG."""
    bins = report.lengths
    return charts.bars(
        [(bin.low + bin.high) / 2 for bin in bins],
        [bin.count for bin in bins],
        width=bins[0].high - bins[0].low + 1,
        title=f"Length of {sum(report.splits.values()):,} rows",
        x_label="tokens",
        y_label="rows",
    )
