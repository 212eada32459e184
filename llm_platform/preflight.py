"""What a pipeline would do to its rows, tried on the first of them before any GPU is asked for.

The same functions run as in a job: validation, preprocessing with the base model's tokenizer. What they raise is an error of the
answer, not of the request: a config that no job would be accepted with is refused as POST /jobs refuses it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_platform.acceptance import Checks
from llm_platform.database import Database
from llm_platform.errors import DatasetError, InvalidConfig, PlatformError
from llm_platform.keys import OPERATOR, Caller
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings
from llm_platform.specs import (
    AgentClass,
    DatasetConfig,
    NodeSpec,
    Pipeline,
    PreprocessingConfig,
    TrainingConfig,
    ValidationConfig,
    parse_pipeline,
)
from llm_platform.specs.base import problems, refused
from llm_platform.specs.preflight import (
    Preflight,
    PreflightNode,
    PreflightProblem,
    PreflightRequest,
    PreflightTraining,
    ShownRow,
    ShownToken,
    TokenStatistics,
)
from llm_platform.storage import Storage
from llm_platform.training import base_model, estimate

GROUP_ROWS = 8_192


def preflight(body: Any, settings: Settings, database: Database, storage: Storage, caller: Caller = OPERATOR) -> Preflight:
    """The answer to POST /preflight. Raises InvalidInput, InvalidConfig or DatasetError for what no job is accepted with."""
    found = problems(PreflightRequest, body)
    if found:
        raise refused("Input validation failed for the preflight", [{**item, "agent": None} for item in found])
    request = PreflightRequest.model_validate(body)
    pipeline = _pipeline(request)
    Checks(pipeline, settings, database, storage, caller).run()
    if not pipeline.of_class(AgentClass.PREPROCESSING):
        raise InvalidConfig("A preflight looks at preprocessing nodes, and the pipeline has none", errors=[])

    def source(config: DatasetConfig, folder: Path) -> tuple[Path, int]:
        from llm_platform.agents.sources import table_of

        return table_of(config, settings, database, storage, folder)

    return run(request, pipeline, settings, source)


Source = Callable[[DatasetConfig, Path], tuple[Path, int]]
"""The table that a dataset node starts from and its number of rows; the folder is for what has to be made."""


def run(request: PreflightRequest, pipeline: Pipeline, settings: Settings, source: Source) -> Preflight:
    """Tries the nodes of a checked pipeline on the first rows of each `source`."""
    with tempfile.TemporaryDirectory(dir=settings.work, prefix="preflight-", suffix=".tmp") as folder:
        return _Run(request, pipeline, settings, source, Path(folder)).answer()


def of_file(
    path: Path, config: PreprocessingConfig, training: TrainingConfig, settings: Settings, rows: list[int], sample: int
) -> Preflight:
    """The same for a file on this machine. Raises DatasetError if it cannot be read."""
    from llm_platform.data.read import detect_format, to_parquet

    def source(_: DatasetConfig, folder: Path) -> tuple[Path, int]:
        table = folder / "source.parquet"
        return table, to_parquet(path, detect_format(path, path.name, None), table, path.name).rows

    request = PreflightRequest(dataset_id="ds_file", config=config, training=training, sample_rows=sample, rows=rows)
    return run(request, _pipeline(request), settings, source)


def _pipeline(request: PreflightRequest) -> Pipeline:
    if request.pipeline_config is not None:
        return parse_pipeline(request.pipeline_config.model_dump(mode="json"))
    assert request.config is not None
    training = request.training or TrainingConfig()
    nodes: Sequence[tuple[str, AgentClass, dict[str, Any]]] = (
        ("dataset", AgentClass.DATASET, {"dataset_id": request.dataset_id}),
        ("preprocessing", AgentClass.PREPROCESSING, request.config.model_dump(mode="json")),
        ("training", AgentClass.TRAINING, training.model_dump(mode="json")),
    )
    return parse_pipeline(
        {
            "nodes": [{"agent_name": name, "agent_class": kind.value, "config": config} for name, kind, config in nodes],
            "edges": [
                {"from_agent": "dataset", "to_agent": "preprocessing"},
                {"from_agent": "preprocessing", "to_agent": "training"},
            ],
        }
    )


@dataclass(frozen=True)
class _Table:
    """The rows of a node that are looked at, and how many it has in all, about."""

    path: Path
    rows: int
    total: float


@dataclass
class _Run:
    request: PreflightRequest
    pipeline: Pipeline
    settings: Settings
    source: Source
    folder: Path
    warnings: list[PreflightProblem] = field(default_factory=list)
    errors: list[PreflightProblem] = field(default_factory=list)
    tables: dict[str, _Table] = field(default_factory=dict)
    prepared: dict[str, tuple[PreflightNode, Path]] = field(default_factory=dict)
    trainings: list[PreflightTraining] = field(default_factory=list)

    def answer(self) -> Preflight:
        for node in self.pipeline.nodes:
            if all(name in self.tables or name in self.prepared for name in node.inputs):
                try:
                    self._node(node)
                except PlatformError as error:
                    self._error(node, error)
        return Preflight(
            ok=not self.errors,
            nodes=[node for node, _ in self.prepared.values()],
            trainings=self.trainings,
            warnings=self.warnings,
            errors=self.errors,
        )

    def _node(self, node: NodeSpec) -> None:
        match node.config:
            case DatasetConfig():
                self._dataset(node.agent_name, node.config)
            case ValidationConfig():
                self._validation(node, node.config)
            case PreprocessingConfig():
                self._preprocessing(node, node.config)
            case TrainingConfig():
                self._training(node, node.config)
            case _:
                pass

    def _error(self, node: NodeSpec, error: PlatformError) -> None:
        self.errors.append(PreflightProblem(agent=node.agent_name, error=error.code, message=error.message, metadata=error.metadata))

    def _warn(self, node: NodeSpec, message: str, **metadata: Any) -> None:
        self.warnings.append(PreflightProblem(agent=node.agent_name, error=DatasetError.code, message=message, metadata=metadata))

    def _dataset(self, name: str, config: DatasetConfig) -> None:
        source, total = self.source(config, self.folder)
        total = min(total, config.limit or total)
        path = self.folder / f"{name}.parquet"
        rows = _first_rows(source, path, config.columns, min(total, self.request.sample_rows))
        self.tables[name] = _Table(path, rows, total)

    def _validation(self, node: NodeSpec, config: ValidationConfig) -> None:
        from llm_platform.data.validate import validate

        source = self.tables[node.inputs[0]]
        out = self.folder / f"{node.agent_name}.parquet"
        report = validate(source.path, config, out)
        for check in report.checks:
            if not check.passed:
                self._warn(node, f"Check {check.name}: {check.message}", check=check.name, failures=check.failures)
        try:
            report.raise_if_failed()
        except DatasetError as error:
            self._error(node, error)
        share = report.rows_out / max(1, report.rows_in)
        self.tables[node.agent_name] = _Table(out if out.exists() else source.path, report.rows_out, source.total * share)

    def _preprocessing(self, node: NodeSpec, config: PreprocessingConfig) -> None:
        from llm_platform.data.preprocess import preprocess

        if not base_model.is_ready(config.base_model, self.settings):
            raise InvalidConfig(
                f"Base model '{config.base_model}' is not on this machine yet, so its tokenizer cannot be tried; "
                "a job would download or build it",
                field="base_model",
            )
        reporter = ListReporter()
        base = base_model.resolve(config.base_model, self.settings, reporter)
        tables = [self.tables[name] for name in node.inputs]
        out = self.folder / node.agent_name
        report = preprocess([table.path for table in tables], config, base, out, reporter, names=node.inputs)
        for level, message, data in reporter.lines:
            if level == "WARN":
                self._warn(node, message, **data)
        seen, total = sum(table.rows for table in tables), sum(table.total for table in tables)
        statistics = _statistics(out, base)
        found = PreflightNode(
            agent_name=node.agent_name,
            rows_total=round(total),
            rows_seen=seen,
            funnel=report.funnel,
            report=report.model_dump(mode="json"),
            tokens=statistics,
            truncated=report.truncated,
            no_trainable_token=report.no_trainable_token,
            shown=list(_shown(out, base, self.request.rows)),
        )
        self.prepared[node.agent_name] = found, base
        for count, what in (
            (report.too_long, f"have more than {config.max_length:,} tokens and would be dropped"),
            (report.truncated, f"have more than {config.max_length:,} tokens and would be cut"),
            (report.no_trainable_token, "have nothing to train on and would be dropped"),
        ):
            if count:
                self._warn(node, f"{count:,} of {report.rows_in:,} rows {what}", rows=count)
        if statistics.eos_rows < statistics.rows:
            missing = statistics.rows - statistics.eos_rows
            self._warn(node, f"{missing:,} rows do not end with the end-of-sequence token, since they were cut", rows=missing)
        for split in ("validation", "test"):
            if not report.splits[split]:
                self._warn(node, f"The {split} split is empty")

    def _training(self, node: NodeSpec, config: TrainingConfig) -> None:
        (source,) = node.inputs
        prepared, base = self.prepared[source]
        report = prepared.report
        scale = prepared.rows_total / max(1, prepared.rows_seen)
        train_rows = max(1, round(report["splits"]["train"] * scale))
        per_epoch = math.ceil(train_rows / (config.batch_size * config.gradient_accumulation_steps))
        steps = config.max_steps or config.epochs * per_epoch
        epochs = steps / per_epoch
        tokens = round(report["tokens"]["train"] * scale * epochs)
        trained = round(tokens * report["trainable_tokens"] / max(1, sum(report["tokens"].values())))
        shape = estimate.model_shape(base)
        batch = config.rows_per_device * report["max_length"]
        labels = round(batch * trained / max(1, tokens))
        memory = {gpu: estimate.memory(shape, config, tokens=batch, labels=labels, gpu=gpu) for gpu in (True, False)}
        work = estimate.operations(shape, config.method, tokens, trained)
        rates = {"cpu": estimate.cpu_rate(), **estimate.GPUS}
        self.trainings.append(
            PreflightTraining(
                agent_name=node.agent_name,
                method=config.method,
                train_rows=train_rows,
                steps=steps,
                tokens=tokens,
                trainable_parameters=shape.parameters if config.method == "full" else shape.adapter_parameters(config),
                gpu_memory=memory[True],
                cpu_memory=memory[False][config.method],
                seconds={device: round(estimate.seconds(work, rate), 6) for device, rate in rates.items()},
            )
        )


def _first_rows(source: Path, out: Path, columns: Sequence[str] | None, count: int) -> int:
    """Writes the first rows to a table of its own; how many there were. Raises DatasetError for a column that is not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    with pq.ParquetFile(source) as file:
        names = list(columns or file.schema_arrow.names)
        missing = [name for name in names if name not in file.schema_arrow.names]
        if missing:
            raise DatasetError(
                f"The dataset has no column {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)}", field="columns"
            )
        schema = pa.schema([file.schema_arrow.field(name) for name in names])
        with pq.ParquetWriter(out, schema) as to:
            for batch in file.iter_batches(batch_size=GROUP_ROWS, columns=names):
                part = batch.select(names).slice(0, count - done)
                to.write_batch(part)
                done += part.num_rows
                if done == count:
                    break
    return done


def _statistics(splits: Path, base: Path) -> TokenStatistics:
    import polars as pl

    from llm_platform.data.split import SPLITS
    from llm_platform.data.tokenize import PromptTokenizer

    eos = PromptTokenizer.from_folder(base).eos_id
    rows = pl.concat([pl.read_parquet(splits / f"{name}.parquet", columns=["input_ids", "loss_mask"]) for name in SPLITS])
    lengths = rows["input_ids"].list.len()
    total, trained = int(lengths.sum()), int(rows["loss_mask"].list.sum().sum())
    return TokenStatistics(
        rows=rows.height,
        total=total,
        trained=trained,
        masked_share=round(1 - trained / max(1, total), 4),
        mean=round(total / max(1, rows.height), 2),
        median=float(lengths.quantile(0.5) or 0),
        p95=float(lengths.quantile(0.95) or 0),
        max=int(lengths.to_numpy().max()),
        eos_rows=int((rows["input_ids"].list.last() == eos).sum()),
    )


def _shown(splits: Path, base: Path, wanted: Sequence[int]) -> Iterator[ShownRow]:
    """The rows asked for, with each token and whether it is trained, or why they would go."""
    import polars as pl
    import pyarrow.parquet as pq

    from llm_platform.data.encode import shown_tokens
    from llm_platform.data.preprocess import DROPPED
    from llm_platform.data.split import SPLITS
    from llm_platform.data.tokenize import PromptTokenizer

    tokenizer = PromptTokenizer.from_folder(base)
    found: dict[int, list[ShownToken]] = {}
    for name in SPLITS:
        table = pq.read_table(splits / f"{name}.parquet", filters=[("row", "in", list(wanted))] if wanted else None)
        for row, tokens in zip(table["row"].to_pylist(), shown_tokens(table, tokenizer) if wanted else (), strict=False):
            found[row] = [ShownToken(**token._asdict()) for token in tokens]
    dropped: Mapping[int, str] = dict(pl.read_parquet(splits / DROPPED, columns=["row", "reason"]).iter_rows())
    for row in wanted:
        if row in found or row in dropped:
            yield ShownRow(row=row, tokens=found.get(row, []), dropped=dropped.get(row))
