"""What the acceptance gate found: whether an exported file answers as the model that was evaluated."""

from __future__ import annotations

from pydantic import Field

from llm_platform.specs.base import Resource


class GateResult(Resource):
    """One export, run in its own runtime on held-out rows beside the trained weights as they were evaluated. Shares are 0 to 1."""

    runtime: str = Field(description="What it was loaded in: peft, transformers or llama.cpp.")
    accepted: bool = Field(description="Whether the export is offered for download.")
    reasons: list[str] = Field(description="Why it was rejected; empty if it was not.")
    split: str = Field(description="Of which split the rows are.")
    rows: int = Field(description="Number of rows that both answered.")
    agreement: float = Field(description="Share of rows with an equal greedy answer, token by token.")
    required_agreement: float = Field(description="What each of the shares had to be at least.")
    same_end: float = Field(description="Share of rows whose answer is ended by a stop token where that of the evaluated model is.")
    logit_difference: float = Field(
        description="Mean difference of the log-probabilities of the ten likeliest first tokens of an answer, in nats."
    )
    allowed_logit_difference: float = Field(description="Largest difference that was allowed, in nats.")
    same_tokens: float | None = Field(description="Share of prompts with the token ids of training; None if a text does not tell them.")
    same_template: bool | None = Field(
        description="Whether its chat template writes a conversation as in training; None if that template is none for conversations."
    )
    seconds: float = Field(description="How long the gate took.")


def gate_names(exported: str, gates: dict[str, GateResult]) -> list[str]:
    """The gates of an export format: of itself, or of each of its files (`gguf.q8_0`)."""
    return [name for name in gates if name == exported or name.startswith(f"{exported}.")]
