"""In which formats a trained model is exported, and what an export must fulfil to be offered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llm_platform.specs.base import Spec

ExportFormat = Literal["adapter", "merged", "gguf"]
Quantization = Literal["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"]
Quantizations = Annotated[list[Quantization], Field(min_length=1, max_length=7)]


class AgreementConfig(Spec):
    """Least share of rows that an export must answer exactly as the evaluated model does, and end and tokenise alike."""

    adapter: float = Field(default=0.99, ge=0, le=1, description="Of the adapter.")
    merged: float = Field(default=0.99, ge=0, le=1, description="Of the merged model.")
    f16: float = Field(default=0.99, ge=0, le=1, description="Of a .gguf file in f16.")
    q8_0: float = Field(default=0.95, ge=0, le=1, description="Of a .gguf file in q8_0.")
    q6_k: float = Field(default=0.9, ge=0, le=1, description="Of a .gguf file in q6_k.")
    q5_k_m: float = Field(default=0.85, ge=0, le=1, description="Of a .gguf file in q5_k_m.")
    q4_k_m: float = Field(default=0.75, ge=0, le=1, description="Of a .gguf file in q4_k_m.")
    q3_k_m: float = Field(default=0.6, ge=0, le=1, description="Of a .gguf file in q3_k_m.")
    q2_k: float = Field(default=0.4, ge=0, le=1, description="Of a .gguf file in q2_k.")


class GateConfig(Spec):
    """Every export is run on held-out rows; one that does not answer as the evaluated model does is not offered for download."""

    rows: int = Field(default=50, ge=1, le=1000, description="Rows of the test split that both answer.")
    max_new_tokens: int = Field(default=64, ge=1, le=65_536, description="Longest answer.")
    agreement: AgreementConfig = Field(default=AgreementConfig(), description="Least share of agreeing rows, by format.")
    max_logit_difference: float = Field(
        default=0.5, gt=0, le=1e3, description="Largest mean difference of the first tokens' log-probabilities, in nats."
    )


class ExportConfig(Spec):
    formats: list[ExportFormat] = Field(default=["adapter", "merged"], min_length=1, max_length=3, description="What to export.")
    gguf_quantization: Quantizations = Field(default=["f16"], description="One, or several: a .gguf file of each.")
    gate: GateConfig = Field(default=GateConfig(), description="What an export must fulfil to be offered.")

    @field_validator("gguf_quantization", mode="before", json_schema_input_type=Quantization | Quantizations)
    @classmethod
    def _one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _quantizes_something(self) -> ExportConfig:
        if self.gguf_quantization != ["f16"] and "gguf" not in self.formats:
            raise ValueError("gguf_quantization is only for the format 'gguf'; add it to formats, or leave this out")
        return self
