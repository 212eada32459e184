"""Standard benchmarks by EleutherAI's lm-eval, an extra package: `run_benchmarks(names, model, ...)`.

A benchmark is one of lm-eval's own tasks, whose rows come from the hub or its cache, or one that the operator defined in the folder
`Settings.benchmark_tasks`. Definitions can run code, so nobody but the operator adds them. Needs no torch until one runs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_platform.data.digest import digest
from llm_platform.errors import Cancelled, InvalidConfig, TrainingError
from llm_platform.reporting import Reporter
from llm_platform.specs.base import Resource
from llm_platform.specs.comparison import Interval

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DISTRIBUTION = "lm-eval"
NORMAL_95 = 1.96
"""Standard errors on each side of a mean within which it lies in 95 of 100 cases."""


class BenchmarkFigure(Resource):
    """A figure of a task, as lm-eval reports it, and how many of the task's rows it stands on."""

    task: str
    metric: str
    value: float
    stderr: float | None
    samples: int

    @property
    def name(self) -> str:
        return f"{self.task}.{self.metric}"

    @property
    def interval(self) -> Interval | None:
        if self.stderr is None:
            return None
        return Interval(low=self.value - NORMAL_95 * self.stderr, high=self.value + NORMAL_95 * self.stderr, count=self.samples)


@dataclass(frozen=True)
class Benchmarks:
    """Which benchmarks are asked for, and the folder of the operator's own definitions."""

    names: tuple[str, ...]
    folder: Path | None = None

    @property
    def digest(self) -> str:
        """Changes with what is asked, with lm-eval, and with each file of the operator's folder."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file()) if self.folder else []
        parts: list[str | Path] = [version(DISTRIBUTION), *self.names]
        for path in files:
            parts += [path.name, path]
        return digest(*parts)


def check_installed() -> None:
    """Raises InvalidConfig if lm-eval is missing."""
    if find_spec("lm_eval") is None:
        raise InvalidConfig(
            f"Standard benchmarks need {DISTRIBUTION}, not installed here; pip install 'llm-platform[eval]', or leave benchmarks out"
        )


def tasks_of(benchmarks: Benchmarks) -> Any:
    """lm-eval's index of tasks: of the operator's alone where that has all that are asked for, since indexing its own takes long.

    Raises InvalidConfig for a name that is none of them.
    """
    check_installed()
    manager = import_module("lm_eval.tasks").TaskManager
    own = str(benchmarks.folder) if benchmarks.folder else None
    index = manager(include_path=own, include_defaults=False)
    if unknown := [name for name in benchmarks.names if name not in index.all_tasks]:
        index = manager(include_path=own)
        unknown = [name for name in unknown if name not in index.all_tasks]
    if unknown:
        near = difflib.get_close_matches(unknown[0], index.all_tasks, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "give the name of a task of lm-eval, or one that the operator defined"
        raise InvalidConfig(f"There is no benchmark '{unknown[0]}'; {hint}", field="benchmarks")
    return index


def run_benchmarks(
    benchmarks: Benchmarks, tasks: Any, model: PreTrainedModel, tokenizer: Any, rows: int, batch_size: int, reporter: Reporter, what: str
) -> list[BenchmarkFigure]:
    """Each benchmark's figures, of its first `rows` rows; of a group of tasks its mean where lm-eval says one, else each task's.

    `tasks` is from `tasks_of`. Progress is reported per benchmark as `what`. Raises TrainingError for a benchmark that fails.
    """
    lm = import_module("lm_eval.models.huggingface").HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    simple_evaluate = import_module("lm_eval.evaluator").simple_evaluate
    found: list[BenchmarkFigure] = []
    for done, name in enumerate(benchmarks.names):
        reporter.check_cancelled()
        reporter.progress(done, len(benchmarks.names), what)
        try:
            said = simple_evaluate(model=lm, tasks=[name], task_manager=tasks, limit=rows, log_samples=False)
        except Cancelled:
            raise
        except Exception as error:  # what a task's definition, its data's loading script or the hub's client raises
            raise TrainingError(
                f"Benchmark '{name}' could not be run ({type(error).__name__}); its rows come from the hub, from the hub's cache on this "
                "machine, or from where the operator's definition says",
                benchmark=name,
            ) from error
        found += _figures(name, said)
    reporter.progress(len(benchmarks.names), len(benchmarks.names), what)
    return found


def tokenizer_of(folder: Path, ends: Sequence[int]) -> Any:
    """The tokenizer of a model's folder as lm-eval wants it: with a token that ends texts, which it also begins them with."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    return tokenizer


def _figures(name: str, said: Mapping[str, Any]) -> Iterator[BenchmarkFigure]:
    counts = {task: int(count["effective"]) for task, count in said["n-samples"].items()}
    results: Mapping[str, Mapping[str, Any]] = said["results"]
    for task in [name] if _has_values(results.get(name, {})) else results:
        for key, value in results[task].items():
            metric, comma, kept_by = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = results[task].get(f"{metric}_stderr,{kept_by}")
            yield BenchmarkFigure(
                task=task,
                metric=metric if kept_by == "none" else f"{metric}.{kept_by}",
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                samples=counts.get(task, sum(counts.values())),
            )


def _has_values(result: Mapping[str, Any]) -> bool:
    return any("," in key and isinstance(value, int | float) for key, value in result.items())
