"""Asks an export in its own runtime: peft, transformers or llama.cpp. Each answers the same questions, see `Answers`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from llm_platform.errors import TrainingError
from llm_platform.evaluation.generate import Answer
from llm_platform.export.child import run_child, why_failed
from llm_platform.export.llama_runtime import LIKELIEST
from llm_platform.export.prompting import Conversation
from llm_platform.reporting import Reporter
from llm_platform.training.adapter import causal_model, ends, load_adapter
from llm_platform.training.base_model import load
from llm_platform.training.device import autocast

BATCH = 16


@dataclass(frozen=True)
class Questions:
    """`prompts` are token ids; `texts` the same as text; `conversations` go through the chat template."""

    prompts: list[list[int]]
    texts: list[str]
    conversations: list[Conversation]
    max_new_tokens: int


@dataclass(frozen=True)
class Answers:
    """In the order of the questions. `first` has of each prompt the log-probabilities of first tokens of an answer, by token id.

    `templated` has None for a conversation that the export cannot write.
    """

    answers: list[Answer]
    first: list[dict[int, float]]
    token_ids: list[list[int]]
    templated: list[str | None]


def ask_peft(
    base_model: Path, adapter: Path, questions: Questions, device: torch.device, dtype: torch.dtype, reporter: Reporter
) -> Answers:
    """The exported adapter on its base model."""
    return _ask_torch("peft", causal_model(load_adapter(load(base_model, dtype), adapter)), adapter, questions, device, reporter)


def ask_transformers(folder: Path, questions: Questions, device: torch.device, dtype: torch.dtype, reporter: Reporter) -> Answers:
    return _ask_torch("transformers", load(folder, dtype), folder, questions, device, reporter)


def _ask_torch(
    runtime: str, model: PreTrainedModel, folder: Path, questions: Questions, device: torch.device, reporter: Reporter
) -> Answers:
    model.to(device)  # type: ignore[arg-type]
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    settings = GenerationConfig.from_pretrained(folder)
    settings.max_new_tokens = questions.max_new_tokens
    stops = ends(folder)
    answers: dict[int, Answer] = {}
    order = sorted(range(len(questions.prompts)), key=lambda index: len(questions.prompts[index]))
    for start in range(0, len(order), BATCH):
        reporter.check_cancelled()
        batch = order[start : start + BATCH]
        made = _generate(model, [questions.prompts[index] for index in batch], settings, stops)
        answers.update(zip(batch, made, strict=True))
        reporter.progress(len(answers), len(order), f"answers in {runtime}")
    return Answers(
        [answers[index] for index in range(len(order))],
        [_likeliest(probabilities) for probabilities in first_probabilities(model, questions.prompts)],
        [tokenizer(text)["input_ids"] for text in questions.texts],
        [_templated(tokenizer, conversation) for conversation in questions.conversations],
    )


@torch.inference_mode()
def _generate(model: PreTrainedModel, prompts: Sequence[list[int]], settings: GenerationConfig, stops: Collection[int]) -> list[Answer]:
    """transformers' own generation, prompts padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    generate: Any = model.generate
    with autocast(model.device, model.dtype):
        made = generate(input_ids=ids.to(model.device), attention_mask=seen.to(model.device), generation_config=settings)
    found: list[Answer] = []
    for written in made[:, width:].tolist():
        end = next((place for place, token in enumerate(written) if token in stops), None)
        found.append(Answer(written[:end], end is not None))
    return found


@torch.inference_mode()
def first_probabilities(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
    """Log-probabilities [V] of the first token of each answer, in float32 on the CPU."""
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=model.device)
        with autocast(model.device, model.dtype):
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        yield logits[0, -1].float().log_softmax(-1).cpu()


def _likeliest(probabilities: torch.Tensor) -> dict[int, float]:
    """The largest of log-probabilities [V], by token id."""
    top = probabilities.topk(min(LIKELIEST, probabilities.numel()))
    return dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def _templated(tokenizer: Any, conversation: Conversation) -> str | None:
    if tokenizer.chat_template is None:
        return None
    try:
        return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except Exception:  # whatever a damaged template does
        return None


def ask_llama_cpp(weights: Path, questions: Questions, work: Path, threads: int, reporter: Reporter) -> Answers:
    """A .gguf file in llama.cpp, in a process of its own. `work` is for the questions and answers. Raises TrainingError if it dies."""
    asked = {
        "model": str(weights),
        "prompts": questions.prompts,
        "texts": questions.texts,
        "conversations": questions.conversations,
        "max_new_tokens": questions.max_new_tokens,
        "context": max(map(len, questions.prompts)) + questions.max_new_tokens + 16,
        "threads": threads,
    }
    request, answers, log = work / "request.json", work / "answers.jsonl", work / "llama.log"
    request.write_text(json.dumps(asked), "utf-8")
    answers.unlink(missing_ok=True)
    total = len(questions.prompts)

    def told() -> None:
        done = answers.read_bytes().count(b"\n") if answers.is_file() else 0
        reporter.progress(min(done, total), total, "answers in llama.cpp")

    command = [sys.executable, "-m", "llm_platform.export.llama_runtime", str(request), str(answers)]
    if run_child(command, log, reporter, told) != 0:
        raise TrainingError(f"llama.cpp could not run {weights.name}: {why_failed(log, [weights.parent, work])}")
    lines = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
    asked_first, rest = lines[:total], lines[total:]
    return Answers(
        [Answer(line["ids"], line["stopped"]) for line in asked_first],
        [{token: math.nan if value is None else value for token, value in line["first"]} for line in asked_first],
        [line["ids"] for line in rest[: len(questions.texts)]],
        [line.get("text") for line in rest[len(questions.texts) :]],
    )
