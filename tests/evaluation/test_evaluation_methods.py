"""What is evaluated is what is exported: a whole model beside its base, an adapter trained in 4 bits on the base's own weights."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from llm_platform.errors import InvalidConfig
from llm_platform.evaluation.evaluate import evaluate
from llm_platform.export.export import export_merged, export_whole
from llm_platform.reporting import ListReporter
from llm_platform.specs import EvaluationConfig, TrainingConfig
from tests.tiny_models import make_base, make_rows, make_trained, write_split

CONFIG = EvaluationConfig(batch_size=4, max_new_tokens=6)
METHODS = {"full": TrainingConfig(method="full", learning_rate=5e-3), "qlora": TrainingConfig(method="qlora", learning_rate=1e-2)}


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, make_trained(base, folder, rows=make_rows(8, 11), config=METHODS[request.param])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(tmp_path_factory.mktemp("rows") / "test.parquet", make_rows(8, 11))


def test_it_is_compared_with_its_base(trained: tuple[str, Path], base: Path, rows: Path, tmp_path: Path) -> None:
    result = evaluate(CONFIG, base, trained[1], rows, tmp_path / "tuned", ListReporter(), threads=1)
    plain = evaluate(CONFIG, base, None, rows, tmp_path / "base", ListReporter(), threads=1)
    assert result.base == plain.tuned
    assert result.tuned["accuracy"] == result.tuned["eos_rate"] == 1.0 and plain.tuned["accuracy"] == 0.0
    table = pl.read_parquet(tmp_path / "tuned" / "examples.parquet")
    assert table["tuned_answer"].to_list() == table["reference"].to_list()
    assert table["base_answer"].to_list() == pl.read_parquet(tmp_path / "base" / "examples.parquet")["tuned_answer"].to_list()
    alone = evaluate(CONFIG.model_copy(update={"include_base": False}), base, trained[1], rows, tmp_path / "x", ListReporter(), threads=1)
    assert alone.base is None and alone.tuned == result.tuned


def test_what_is_exported_has_the_figures_that_were_measured(trained: tuple[str, Path], base: Path, rows: Path, tmp_path: Path) -> None:
    reporter = ListReporter()
    measured = evaluate(CONFIG, base, trained[1], rows, tmp_path / "measured", reporter, threads=1)
    told = [text for level, text, _ in reporter.lines if level == "INFO" and "4 bits" in text]
    assert len(told) == (trained[0] == "qlora")
    export = export_whole if trained[0] == "full" else export_merged
    export(base, trained[1], tmp_path / "merged", ListReporter())
    shipped = evaluate(CONFIG, tmp_path / "merged", None, rows, tmp_path / "shipped", ListReporter(), threads=1)
    assert shipped.tuned == pytest.approx(measured.tuned, rel=1e-4)


def test_weights_of_another_base_are_refused(trained: tuple[str, Path], rows: Path, tmp_path: Path) -> None:
    other = make_base(tmp_path / "base", tied=False)
    with pytest.raises(InvalidConfig, match="other base weights"):
        evaluate(CONFIG, other, trained[1], rows, tmp_path / "out", ListReporter(), threads=1)
