"""The typed configuration of each agent class.

The names are public: REST, Dagster's launchpad, notebooks and the SDKs all show them.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from llm_platform.specs.base import MODEL_ID, NAME, Spec
from llm_platform.specs.export import ExportConfig

Format = Literal["csv", "json", "jsonl", "parquet", "txt"]
BenchmarkName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
Column = Annotated[str, Field(min_length=1, max_length=200)]
ModelId = Annotated[str, Field(pattern=MODEL_ID)]
NodeName = Annotated[str, Field(pattern=NAME)]
TemplateName = Literal[
    "alpaca", "chatml", "llama2", "llama3", "mistral", "gemma", "phi", "zephyr", "vicuna", "plain", "tokenizer", "custom"
]
Metric = Literal["accuracy", "exact_match", "f1", "rouge_l", "numeric_match", "label_accuracy", "macro_f1", "loss", "perplexity"]
METRICS: tuple[Metric, ...] = get_args(Metric)
LOWER_IS_BETTER: frozenset[Metric] = frozenset({"loss", "perplexity"})


class AgentClass(StrEnum):
    """What a node does. The order is the order of the stages."""

    DATASET = "DatasetAgent"
    VALIDATION = "ValidationAgent"
    PREPROCESSING = "PreprocessingAgent"
    TRAINING = "TrainingAgent"
    EVALUATION = "EvaluationAgent"
    COMPARISON = "ComparisonAgent"
    EXPORT = "ExportAgent"
    NOTEBOOK = "NotebookAgent"


class DatasetConfig(Spec):
    """Which rows a pipeline works on: an uploaded dataset, or a file by its address."""

    file_path: str | None = Field(default=None, max_length=1024, description="Address of a file, s3://bucket/key.")
    dataset_id: str | None = Field(default=None, pattern=r"^ds_[A-Za-z0-9]{1,64}$", description="An uploaded dataset.")
    format: Format | None = Field(default=None, description="Detected from the content if not given.")
    columns: list[Column] | None = Field(default=None, min_length=1, max_length=1000, description="Columns to keep.")
    limit: int | None = Field(default=None, ge=1, le=10**12, description="Use only the first rows, this many.")


class ColumnRule(Spec):
    """What the cells of one column must fulfil. Empty cells are judged by `max_null_share` and `unique` alone."""

    column: Column = Field(description="Its name.")
    required: bool = Field(default=True, description="The column must be there.")
    type: Literal["string", "integer", "number", "boolean", "datetime"] | None = Field(
        default=None, description="What every cell must be, or be readable as."
    )
    min: float | None = Field(default=None, description="Smallest number allowed.")
    max: float | None = Field(default=None, description="Largest number allowed.")
    pattern: str | None = Field(default=None, min_length=1, max_length=1000, description="Regular expression that the text contains.")
    allowed: list[str] | None = Field(default=None, min_length=1, max_length=10_000, description="The values allowed, as text.")
    min_length: int | None = Field(default=None, ge=0, le=10**9, description="Fewest characters.")
    max_length: int | None = Field(default=None, ge=0, le=10**9, description="Most characters.")
    max_null_share: float | None = Field(default=None, ge=0, le=1, description="Allowed share of empty cells; wins over the general one.")
    unique: bool = Field(default=False, description="No value may occur twice.")

    @model_validator(mode="after")
    def _in_order(self) -> ColumnRule:
        for low, high in (("min", "max"), ("min_length", "max_length")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"{low} ({least:g}) is larger than {high} ({most:g})")
        return self


class ValidationRules(Spec):
    """What the rows must fulfil, beyond being readable."""

    required_columns: list[Column] = Field(default=[], max_length=1000, description="Columns that must be there.")
    max_null_share: float = Field(default=0.0, ge=0, le=1, description="Allowed share of empty cells, per column.")
    max_duplicate_share: float = Field(default=1.0, ge=0, le=1, description="Allowed share of repeated rows.")
    columns: list[ColumnRule] = Field(default=[], max_length=1000, description="Rules of single columns.")


class ValidationConfig(Spec):
    rules: ValidationRules = Field(default=ValidationRules(), description="What the rows must fulfil.")
    on_error: Literal["fail", "drop", "warn"] = Field(
        default="fail", description="fail the job, drop the rows that break a rule, or only say so."
    )


class SplitConfig(Spec):
    """Shares of the rows; they add up to 1. Rows of one prompt, or of one group, are never on two sides."""

    train: float = Field(default=0.8, gt=0, le=1, description="Share of the rows to train on.")
    validation: float = Field(default=0.1, ge=0, lt=1, description="Share of the rows for validation losses.")
    test: float = Field(default=0.1, ge=0, lt=1, description="Share of the rows to evaluate on.")
    validation_inputs: list[NodeName] = Field(
        default=[], max_length=100, description="Input nodes whose rows are the validation split; its share is then of no account."
    )
    test_inputs: list[NodeName] = Field(default=[], max_length=100, description="The same for the test split.")
    stratify_by: Column | None = Field(default=None, description="Column whose values have the same share in every split.")
    group_by: Column | None = Field(default=None, description="Column whose equal values stay on one side.")
    near_duplicates: Literal["together", "ignore"] = Field(default="together", description="Whether near-duplicates stay on one side.")

    @model_validator(mode="after")
    def _adds_up(self) -> SplitConfig:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test must add up to 1; they add up to {total:g}")
        both = sorted(set(self.validation_inputs) & set(self.test_inputs))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be both validation_inputs and test_inputs")
        return self


class CleanConfig(Spec):
    """Which rules clean the texts. `true` stands for the defaults, `false` for no rule at all."""

    unicode: Literal["NFC", "NFKC", "off"] = Field(default="NFC", description="Unicode normal form.")
    control_characters: bool = Field(default=True, description="Remove them, but for tabs and line ends.")
    whitespace: bool = Field(default=True, description="One kind of line end, at most one blank line, none at the ends.")
    html: bool = Field(default=False, description="Replace HTML by its text.")
    empty_rows: bool = Field(default=True, description="Drop rows without a prompt or without an answer.")
    min_characters: int = Field(default=0, ge=0, le=10**6, description="Drop rows whose last answer has fewer characters.")


NO_CLEANING = CleanConfig(unicode="off", control_characters=False, whitespace=False, empty_rows=False)


class TemplateMapping(Spec):
    """Which column fills which slot of the template. If none is named, the dataset's layout decides."""

    instruction: Column | None = Field(default=None, description="Column with the task or question.")
    input: Column | None = Field(default=None, description="Column with what the task is about, beside the instruction.")
    output: Column | None = Field(default=None, description="Column with the answer.")
    system: Column | None = Field(default=None, description="Column with a system prompt of each row.")
    messages: Column | None = Field(default=None, description="Column with whole conversations, in OpenAI's or ShareGPT's form.")

    @model_validator(mode="after")
    def _one_form(self) -> TemplateMapping:
        if self.messages is not None and (self.instruction or self.input or self.output):
            raise ValueError("messages holds whole conversations; give either it, or instruction, input and output")
        return self


class PreprocessingConfig(Spec):
    base_model: str = Field(min_length=1, max_length=1024, description="Hub id, cached model or allowed folder; its tokenizer is used.")
    clean: CleanConfig = Field(default=CleanConfig(), description="true, false, or each rule.")
    dedup: bool = Field(default=True, description="Drop rows equal to an earlier one but for case and white space.")
    near_dedup: bool = Field(default=False, description="Drop rows nearly equal to an earlier one, too.")
    near_dedup_threshold: float = Field(default=0.8, ge=0.5, le=1, description="Jaccard similarity from which rows are nearly equal.")
    template: TemplateName = Field(default="alpaca", description="'tokenizer' is the base model's own, 'custom' is template_source.")
    template_source: str | None = Field(default=None, min_length=1, max_length=20_000, description="Jinja source of a custom template.")
    template_mapping: TemplateMapping = Field(default=TemplateMapping(), description="Which column fills which slot.")
    system_prompt: str | None = Field(default=None, min_length=1, max_length=20_000, description="For rows that have none of their own.")
    train_on: Literal["completions", "last", "all"] = Field(
        default="completions", description="Every answer, the last one of a conversation, or all tokens."
    )
    max_length: int = Field(default=1024, ge=8, le=1_048_576, description="Longest row, in tokens.")
    truncation: Literal["drop", "truncate_prompt", "truncate_end", "fail"] = Field(
        default="drop", description="What happens to rows over max_length."
    )
    split: SplitConfig = Field(default=SplitConfig(), description="Shares of the train, validation and test rows.")
    contamination: bool = Field(default=True, description="Report how much of the test split occurs in the training split.")
    seed: int = Field(default=42, ge=0, lt=2**32, description="Of what is drawn at random; the same seed gives the same splits.")

    @field_validator("clean", mode="before", json_schema_input_type=bool | CleanConfig)
    @classmethod
    def _switch(cls, value: object) -> object:
        return (CleanConfig() if value else NO_CLEANING) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _custom_source(self) -> PreprocessingConfig:
        if self.template == "custom" and self.template_source is None:
            raise ValueError("template 'custom' needs its Jinja source in template_source")
        if self.template != "custom" and self.template_source is not None:
            raise ValueError(f"template_source is only for template 'custom'; the template is '{self.template}'")
        return self


class TrainingConfig(Spec):
    method: Literal["lora", "qlora", "full"] = Field(default="lora", description="An adapter, one on a 4-bit base, or all weights.")
    model_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$", description="Name in the registry.")
    lora_r: int = Field(default=16, ge=1, le=1024, description="Rank of the adapter.")
    lora_alpha: float = Field(default=32, gt=0, le=65_536, description="Scale of the adapter, over its rank.")
    lora_dropout: float = Field(default=0.05, ge=0, lt=1, description="Share of the adapter's inputs that is dropped in training.")
    target_modules: list[Column] | str = Field(
        default="all-linear", description="'all-linear', names of modules, or a regular expression of their full names."
    )
    use_dora: bool = Field(default=False, description="Weight-decomposed adapters (DoRA).")
    use_rslora: bool = Field(default=False, description="Scale adapters by alpha over the root of the rank (rsLoRA).")
    loraplus_ratio: float | None = Field(default=None, ge=1, le=1e4, description="Learning rate of B over that of A (LoRA+).")
    epochs: int = Field(default=1, ge=1, le=10_000, description="Passes over the train split.")
    max_steps: int | None = Field(default=None, ge=1, le=10**9, description="Optimizer steps; wins over epochs.")
    batch_size: int = Field(default=8, ge=1, le=4096, description="Rows per forward pass.")
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=4096, description="Batches whose gradients make one optimizer step.")
    learning_rate: float = Field(default=2e-4, gt=0, le=10, description="Highest learning rate, which the warmup ends at.")
    lr_scheduler: Literal["linear", "cosine", "constant"] = Field(
        default="cosine", description="How the learning rate goes on after the warmup."
    )
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    weight_decay: float = Field(default=0.0, ge=0, le=10, description="Decay of weight matrices, per step and learning rate.")
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e6, description="Norm to which longer gradients are cut.")
    optimizer: Literal["auto", "adamw", "paged_adamw", "paged_adamw_8bit"] = Field(
        default="auto", description="auto is AdamW, and for qlora on a GPU its paged form."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(default="auto", description="auto is bfloat16 on a GPU, float32 on a CPU.")
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        default="auto", description="on: less memory, a third more time. auto: on if the largest batch would not fit without it."
    )
    compile: bool = Field(default=False, description="Compile the layers (torch.compile): minutes at the start, and no faster on a CPU.")
    packing: bool = Field(
        default=False,
        description="Lay the rows of a batch end to end instead of padding them; rows never see each other.",
    )
    evaluate_every: int | None = Field(
        default=None, ge=1, le=10**9, description="Optimizer steps between validation losses; once an epoch if unset."
    )
    early_stopping_patience: int | None = Field(
        default=None, ge=1, le=10**6, description="Stop after so many validation losses in a row without a new lowest."
    )
    keep: Literal["last", "best"] = Field(default="last", description="The weights of the last step, or of the lowest validation loss.")
    checkpoint_every: int = Field(default=100, ge=1, le=10**9, description="Optimizer steps between checkpoints.")
    checkpoints_kept: int = Field(default=2, ge=1, le=100, description="The newest checkpoints that are kept, beside the best.")
    resume: bool = Field(default=True, description="Go on from the last checkpoint of the same config and data, if there is one.")
    devices: int = Field(
        default=1, ge=1, le=64, description="GPUs of this machine that share each batch's rows; on a CPU, processes that share it."
    )
    sharding: Literal["auto", "none", "full"] = Field(
        default="auto",
        description="full: each device keeps its part of the weights (FSDP). auto: full if the model would not fit on one device.",
    )
    seed: int = Field(default=42, ge=0, lt=2**32, description="Of what is drawn at random, such as the order of the rows.")

    @property
    def shardable(self) -> bool:
        """Whether the model can be spread over several devices."""
        return self.devices > 1 and self.method != "qlora" and self.optimizer in ("auto", "adamw")

    @property
    def rows_per_device(self) -> int:
        """The most rows that one device has of a batch."""
        return -(-self.batch_size // self.devices)

    @property
    def fields_on_validation(self) -> list[str]:
        """The fields given here that mean nothing without validation rows."""
        given = {
            "evaluate_every": self.evaluate_every is not None,
            "early_stopping_patience": self.early_stopping_patience is not None,
            "keep": self.keep == "best",
        }
        return [name for name, wanted in given.items() if wanted]

    @field_validator("target_modules")
    @classmethod
    def _not_empty(cls, value: list[str] | str) -> list[str] | str:
        if not value:
            raise ValueError("name at least one module, or say 'all-linear'")
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression ({error}); give 'all-linear', a list of names, or an expression") from None
        return value

    @model_validator(mode="after")
    def _rows_for_all(self) -> TrainingConfig:
        if self.devices > self.batch_size:
            raise ValueError(f"{self.devices} devices share a batch of {self.batch_size} rows; raise batch_size, or lower devices")
        return self

    @model_validator(mode="after")
    def _nothing_that_cannot_be_spread(self) -> TrainingConfig:
        if self.sharding == "full" and not self.shardable:
            why = (
                "a model in 4 bits is not spread over devices; use method lora"
                if self.method == "qlora"
                else f"optimizer '{self.optimizer}' pages the memory of one device; use adamw"
                if self.devices > 1
                else "one device has nothing to share; raise devices"
            )
            raise ValueError(f"sharding 'full': {why}, or leave sharding out")
        return self

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> TrainingConfig:
        if self.method == "full":
            fields = ("lora_r", "lora_alpha", "lora_dropout", "target_modules", "use_dora", "use_rslora", "loraplus_ratio")
            given = [name for name in fields if getattr(self, name) != type(self).model_fields[name].default]
            if given:
                raise ValueError(f"method 'full' trains all weights, so {', '.join(given)} would have no effect; leave it out")
        return self


class EvaluationConfig(Spec):
    metrics: list[Metric] = Field(
        default=list(METRICS),
        min_length=1,
        max_length=len(METRICS),
        description="numeric_match is of references that end with a number, label_accuracy and macro_f1 of references that are labels.",
    )
    max_samples: int = Field(default=200, ge=1, le=10**9, description="Most rows that are scored.")
    max_new_tokens: int = Field(default=64, ge=1, le=65_536, description="Longest answer, in tokens.")
    batch_size: int = Field(default=32, ge=1, le=4096, description="Rows that are answered at a time.")
    dataset_id: str | None = Field(
        default=None, pattern=r"^ds_[A-Za-z0-9]{1,64}$", description="Score on this dataset instead of the test split."
    )
    include_base: bool = Field(default=True, description="Score the base model on the same rows too.")
    benchmarks: list[BenchmarkName] = Field(
        default=[], max_length=20, description="Standard benchmarks by their names in lm-eval, each on its first max_samples rows."
    )


class ComparisonConfig(Spec):
    """Which of several models is best, and whether it is good enough to become the registered model's champion."""

    metric: Metric = Field(default="accuracy", description="What decides which model is best, and what the gain is measured in.")
    min_gain: float = Field(default=0.0, ge=0, le=1e9, description="Least gain over the champion or, where there is none, the base model.")
    max_regressions: int | None = Field(default=None, ge=0, le=10**9, description="Most examples that may go from right to wrong.")
    promote: bool = Field(default=True, description="Give the best model the alias champion if the gate holds; else only say whether.")
    model_ids: list[ModelId] = Field(default=[], max_length=20, description="Models of earlier runs that are compared too.")


class NotebookConfig(Spec):
    notebook: str = Field(default="evaluate_model", pattern=NAME, description="Name of an allowed notebook, without .ipynb.")
    parameters: dict[str, str | int | float | bool | None] = Field(
        default={}, max_length=100, description="Values for the notebook's parameters cell; what is left out comes from the inputs."
    )
    timeout: int = Field(default=600, ge=1, le=86_400, description="Seconds the whole notebook may take.")
    memory_mb: int | None = Field(default=None, ge=64, le=2**24, description="MiB of memory the kernel and its processes may have.")


AgentConfig = (
    DatasetConfig
    | ValidationConfig
    | PreprocessingConfig
    | TrainingConfig
    | EvaluationConfig
    | ComparisonConfig
    | ExportConfig
    | NotebookConfig
)

CONFIGS: dict[AgentClass, type[AgentConfig]] = {
    AgentClass.DATASET: DatasetConfig,
    AgentClass.VALIDATION: ValidationConfig,
    AgentClass.PREPROCESSING: PreprocessingConfig,
    AgentClass.TRAINING: TrainingConfig,
    AgentClass.EVALUATION: EvaluationConfig,
    AgentClass.COMPARISON: ComparisonConfig,
    AgentClass.EXPORT: ExportConfig,
    AgentClass.NOTEBOOK: NotebookConfig,
}

STAGES: dict[AgentClass, str] = {
    AgentClass.DATASET: "dataset",
    AgentClass.VALIDATION: "validation",
    AgentClass.PREPROCESSING: "preprocessed_splits",
    AgentClass.TRAINING: "adapters",
    AgentClass.EVALUATION: "evaluations",
    AgentClass.COMPARISON: "comparison",
    AgentClass.EXPORT: "exports",
    AgentClass.NOTEBOOK: "notebook_reports",
}
"""The Dagster asset that each agent class materializes."""
