"""What is known to fail before a job starts: nothing that these checks can see is ever accepted.

They read the platform's tables and the object store, never the network, and import neither torch nor Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_platform import notebooks
from llm_platform.database import Database
from llm_platform.errors import DatasetError, InvalidConfig, PlatformError
from llm_platform.evaluation.benchmarks import check_installed
from llm_platform.export.packages import check_gguf
from llm_platform.keys import OPERATOR, Caller
from llm_platform.settings import Settings
from llm_platform.specs import (
    AgentClass,
    ComparisonConfig,
    DatasetConfig,
    EvaluationConfig,
    ExportConfig,
    NodeSpec,
    NotebookConfig,
    Pipeline,
    PreprocessingConfig,
    TrainingConfig,
    ValidationConfig,
)
from llm_platform.storage import Address, Storage, parse_address
from llm_platform.training import targets
from llm_platform.training.base_model import check_name, on_disk
from llm_platform.training.estimate import model_shape

CACHE = "cache"
"""The folder of the artifacts bucket that belongs to no run."""
OPERATORS_OWN = {
    "_path": "a file on the platform's machine",
    "_address": "an address in the platform's store",
    "_url": "an address that the platform would call",
    "upstream": "what other nodes made",
}
"""What parameters of a notebook are by how they end, where not everybody may set them."""


class Checks:
    """The checks of one pipeline against one platform."""

    def __init__(self, pipeline: Pipeline, settings: Settings, database: Database, storage: Storage, caller: Caller = OPERATOR) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._database = database
        self._storage = storage
        self._caller = caller
        self._columns: dict[str, list[str] | None] = {}

    def run(self) -> None:
        """Raises the first thing that is wrong: InvalidConfig, or DatasetError where the data is what is wrong."""
        self._max_runtime()
        for node in self._pipeline.nodes:
            match node.config:
                case DatasetConfig():
                    self._columns[node.agent_name] = self._dataset(node, node.config)
                case ValidationConfig() if node.config.rules.columns or node.config.rules.required_columns:
                    # A missing column stops every job but one that only wants to be told.
                    known = [] if node.config.on_error == "warn" else list(self._columns_before(node))
                    _check_rules(node, node.config, known[0] if known else None)
                case PreprocessingConfig():
                    with_place(node, "base_model", check_name, node.config.base_model, self._settings)
                    _check_template(node, node.config)
                    for columns in self._columns_before(node):
                        _check_mapping(node, "template_mapping", columns, node.config)
                case TrainingConfig() if node.config.method != "full":
                    for before in self._preprocessing_before(node):
                        with_place(node, "target_modules", _check_targets, node.config, before.base_model, self._settings)
                case EvaluationConfig():
                    self._evaluation(node, node.config)
                case ComparisonConfig():
                    for model_id in node.config.model_ids:
                        self._known_model(node, model_id, node.config.metric)
                case ExportConfig() if "gguf" in node.config.formats:
                    with_place(node, "formats", check_gguf, node.config.gguf_quantization)
                case NotebookConfig():
                    self._notebook(node, node.config)
                case _:
                    pass

    def _max_runtime(self) -> None:
        wanted, most = self._pipeline.config.global_config.max_runtime, self._settings.max_runtime
        if wanted and most and wanted > most:
            text = f"A job may run for {most} s here, not {wanted}; set max_runtime to at most {most}, or leave it out"
            raise InvalidConfig(text, errors=[{"field": "global_config.max_runtime", "agent": None, "message": text}])

    def _dataset(self, node: NodeSpec, config: DatasetConfig) -> list[str] | None:
        """The columns that the node will hand on; None where only reading the file would tell."""
        if config.dataset_id is None:
            self._file(node, config.file_path or "")
            return config.columns
        columns = self._known_columns(node, config.dataset_id)
        missing = [name for name in config.columns or [] if name not in columns]
        if missing:
            text = f"Dataset '{config.dataset_id}' has no column {', '.join(missing)}; it has {', '.join(columns)}"
            raise placed(DatasetError(text), node, "columns")
        return config.columns or columns

    def _file(self, node: NodeSpec, text: str) -> None:
        allowed = [self._settings.datasets_bucket, self._settings.artifacts_bucket, *self._settings.extra_buckets]
        address = with_place(node, "file_path", parse_address, text, allowed)
        found = with_place(node, "file_path", self._storage.stat, text)
        if found is None or found.is_folder or not self._may_read(address):
            raise placed(DatasetError(f"There is no file at '{text}'"), node, "file_path")

    def _may_read(self, address: Address) -> bool:
        """What an upload or a job stored is there for its owner; what the operator put beside it, for everybody."""
        first = address.key.partition("/")[0]
        if self._caller.sees is None:
            return True
        if address.bucket == self._settings.artifacts_bucket:
            # What nodes share, over all runs and users, is no run's.
            return first != CACHE and self._caller.may_see(self._database.owner_of_run(first))
        upload = self._database.dataset(first) if address.bucket == self._settings.datasets_bucket else None
        return upload is None or self._caller.may_see(upload["owner"])

    def _notebook(self, node: NodeSpec, config: NotebookConfig) -> None:
        for name in config.parameters if self._caller.sees is not None else ():
            if what := next((what for end, what in OPERATORS_OWN.items() if name.endswith(end)), None):
                text = f"Parameter '{name}' is {what}; it is set from the node's inputs, or by an admin"
                raise placed(InvalidConfig(text), node, f"parameters.{name}")
        with_place(node, "notebook", notebooks.check, config.notebook, dict(config.parameters), self._settings, self._storage)

    def _evaluation(self, node: NodeSpec, config: EvaluationConfig) -> None:
        if config.benchmarks:
            with_place(node, "benchmarks", check_installed)
        if config.dataset_id is not None:
            columns = self._known_columns(node, config.dataset_id)
            for mapping in self._preprocessing_before(node):
                _check_mapping(node, "dataset_id", columns, mapping)

    def _known_columns(self, node: NodeSpec, dataset_id: str) -> list[str]:
        row = self._database.dataset(dataset_id)
        if row is None or not self._caller.may_see(row["owner"]):
            raise placed(InvalidConfig(f"There is no dataset '{dataset_id}'"), node, "dataset_id")
        return row["profile"]["analysis"]["columns"]

    def _known_model(self, node: NodeSpec, model_id: str, metric: str) -> None:
        row = self._database.model(model_id)
        if row is None or not self._caller.may_see(self._database.owner_of_run(row["run_id"])):
            raise placed(InvalidConfig(f"There is no model '{model_id}'"), node, "model_ids")
        if metric not in row["metrics"]:
            have = ", ".join(name for name in row["metrics"] if not name.startswith("base_")) or "nothing"
            raise placed(InvalidConfig(f"Model '{model_id}' was not evaluated by {metric}; it has {have}"), node, "model_ids")

    def _columns_before(self, node: NodeSpec) -> Iterator[list[str]]:
        """The columns of each input of a node, looked up through what only passes rows on."""
        for name in node.inputs:
            source = self._pipeline.node(name)
            if source.agent_class is AgentClass.DATASET:
                columns = self._columns[name]
                if columns is not None:
                    yield columns
            else:
                yield from self._columns_before(source)

    def _preprocessing_before(self, node: NodeSpec) -> Iterator[PreprocessingConfig]:
        for name in node.inputs:
            source = self._pipeline.node(name)
            if isinstance(source.config, PreprocessingConfig):
                yield source.config
            else:
                yield from self._preprocessing_before(source)


def _check_mapping(node: NodeSpec, field: str, columns: list[str], config: PreprocessingConfig) -> None:
    # Polars and numpy come with it, half a second that the API's start does not wait for.
    from llm_platform.data.layout import resolve

    with_place(node, field, resolve, columns, config)


def _check_template(node: NodeSpec, config: PreprocessingConfig) -> None:
    if config.template == "custom":
        from llm_platform.data.render import check_template

        with_place(node, "template_source", check_template, config)


def _check_rules(node: NodeSpec, config: ValidationConfig, columns: list[str] | None) -> None:
    from llm_platform.data.rules import check_rules  # polars, as above

    with_place(node, "rules", check_rules, config.rules, columns)


def _check_targets(config: TrainingConfig, base_model: str, settings: Settings) -> None:
    """Where the model's files are here and tell: training itself has the last word, before its first step."""
    folder = on_disk(base_model, settings)
    if folder is None:
        return
    shape = model_shape(folder)
    if shape.named_as_stored:
        targets.chosen(config.target_modules, shape.linear)


def with_place(node: NodeSpec, field: str, check: Any, *args: Any) -> Any:
    """Calls `check`; an error that it raises says which node and field it is about."""
    try:
        return check(*args)
    except PlatformError as error:
        raise placed(error, node, field) from None


def placed(error: PlatformError, node: NodeSpec, field: str) -> PlatformError:
    """The same error, saying which node it is about, and which field unless it names fields itself."""
    entries = error.metadata.get("errors") or [{"field": field, "message": error.message}]
    return type(error)(error.message, **{**error.metadata, "errors": [{**entry, "agent": node.agent_name} for entry in entries]})
