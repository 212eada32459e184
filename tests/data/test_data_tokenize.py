"""Token ids and masks, exact for every kind of tokenizer."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tokenizers import Tokenizer, processors

from llm_platform.data.marks import lay_out
from llm_platform.data.tokenize import PromptTokenizer, tokenizer_digest
from llm_platform.errors import InvalidConfig

PROMPTS = ["Q: how many apples?\n\n### Response:\n", "Ana had 3 apples.", "ends with a space ", "ü 日本\n", "a\n\n", ""]
COMPLETIONS = ["Ana has 4 apples.", " leading space", "\nnewline first", "#### 42", "日本 👩‍🚀", "4", "s", "", "a\n\nb  c "]
PAIRS = list(itertools.product(PROMPTS, COMPLETIONS))


@pytest.fixture
def any_tokenizer(any_tokenizer_folder: Path) -> PromptTokenizer:
    return PromptTokenizer.from_folder(any_tokenizer_folder)


def encode(tokenizer: PromptTokenizer, prompts: Sequence[str], completions: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """The tokens before each completion, and its own, of rows without a template."""
    rows = [lay_out([[prompt], [completion]], tokenizer.specials) for prompt, completion in zip(prompts, completions, strict=True)]
    found = tokenizer.encode(pl.Series(["".join(map(str, row)) for row in rows]))
    assert found.first.tolist() == list(range(len(rows) + 1))
    spans = zip(found.offsets[:-1], found.answers.tolist(), found.offsets[1:], strict=True)
    assert all(ends == end for (_, (_, ends), end) in spans)
    return [
        (found.ids[start:answer].tolist(), found.ids[answer:end].tolist())
        for start, (answer, end) in zip(found.offsets[:-1], found.answers.tolist(), strict=True)
    ]


def can_write(tokenizer: PromptTokenizer, text: str) -> bool:
    """Without byte fallback a tokenizer loses characters that it does not know."""
    unknown = tokenizer.tokenizers[0].token_to_id("<unk>")
    return unknown not in tokenizer.tokenizers[0].encode(text, add_special_tokens=False).ids


def test_ids_are_exact(any_tokenizer: PromptTokenizer, any_tokenizer_folder: Path) -> None:
    tokenizer = any_tokenizer
    alone = Tokenizer.from_file(str(any_tokenizer_folder / "tokenizer.json"))
    rows = encode(tokenizer, [prompt for prompt, _ in PAIRS], [completion for _, completion in PAIRS])
    for (prompt, completion), (before, answer) in zip(PAIRS, rows, strict=True):
        assert before == [tokenizer.bos_id, *alone.encode(prompt, add_special_tokens=False).ids]
        assert answer[-1] == tokenizer.eos_id
        assert [*before, *answer].count(tokenizer.eos_id) == 1
        assert tokenizer.bos_id not in [*before[1:], *answer]
        if prompt and can_write(tokenizer, prompt + completion):
            whole = alone.encode(prompt + completion, add_special_tokens=False).ids
            assert tokenizer.decode([*before, *answer]) == tokenizer.decode(whole)
        if not prompt:
            assert answer[:-1] == alone.encode(completion, add_special_tokens=False).ids


def test_prompt_and_completion_are_decoded_to_the_letter(tokenizer_folder: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    for (prompt, completion), (before, answer) in zip(PAIRS, encode(tokenizer, *zip(*PAIRS, strict=True)), strict=True):
        assert tokenizer.decode([*before, *answer]) == prompt + completion


def test_where_tokens_align_the_ids_are_those_of_the_whole_text(any_tokenizer: PromptTokenizer, qa_rows: list[dict[str, str]]) -> None:
    prompts = [f"### Instruction:\n{row['question']}\n\n### Response:\n" for row in qa_rows[:300]]
    answers = [row["answer"] for row in qa_rows[:300]]
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    whole = any_tokenizer.tokenizers[0].encode_batch(texts, add_special_tokens=False)
    compared = 0
    for prompt, encoding, (before, answer) in zip(prompts, whole, encode(any_tokenizer, prompts, answers), strict=True):
        if any(start == len(prompt) for start, _ in encoding.offsets) and can_write(any_tokenizer, prompt):
            compared += encoding.ids == [*before[1:], *answer[:-1]]
    assert compared >= 290 or any_tokenizer.tokenizers[0].token_to_id("<0x0A>") is None


def test_settings_saved_in_the_tokenizer_do_not_matter(tokenizer_folder: Path, tmp_path: Path) -> None:
    expected = encode(PromptTokenizer.from_folder(tokenizer_folder), ["a prompt"], ["an answer"])
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_bytes((tokenizer_folder / "tokenizer_config.json").read_bytes())
    assert encode(PromptTokenizer.from_folder(tmp_path), ["a prompt"], ["an answer"]) == expected


def test_a_pickled_tokenizer_is_the_same(any_tokenizer: PromptTokenizer) -> None:
    rows = (["a prompt with </s> in it"], ["and <s> an answer"])
    hidden = [[any_tokenizer.specials.broken(text) for text in texts] for texts in rows]
    expected = encode(any_tokenizer, *hidden)
    assert encode(pickle.loads(pickle.dumps(any_tokenizer)), *hidden) == expected
    assert any_tokenizer.eos_id not in [*expected[0][0], *expected[0][1][:-1]]


def test_threads_share_a_tokenizer(any_tokenizer: PromptTokenizer, problems: Callable[[int], list[dict[str, str]]]) -> None:
    rows = [(f"{row['question']} ", row["answer"]) for row in problems(400)]
    alone = [encode(any_tokenizer, [prompt], [answer])[0] for prompt, answer in rows[::10]]
    fresh = pickle.loads(pickle.dumps(any_tokenizer))
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda start: encode(fresh, *zip(*rows[start : start + 50], strict=True)), range(0, 400, 50)))
    assert [row for part in parts for row in part][::10] == alone


@pytest.mark.parametrize(
    ("files", "bos", "eos", "pad"),
    [
        ({"tokenizer_config": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}}, 1, 2, 3),
        ({"tokenizer_config": {"eos_token": {"content": "</s>", "__type": "AddedToken"}, "bos_token": None}}, None, 2, 2),
        ({"special_tokens_map": {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}}, 1, 2, 2),
        ({"config": {"bos_token_id": 1, "eos_token_id": [2, 3]}}, 1, 2, 2),
        ({"tokenizer_config": {"eos_token": "missing"}, "config": {"eos_token_id": 2, "pad_token_id": None}}, None, 2, 2),
        ({"tokenizer_config": {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}}, None, 2, 2),
    ],
)
def test_special_tokens_wherever_they_are_named(
    with_settings: Callable[..., Path], files: dict[str, Any], bos: int | None, eos: int, pad: int
) -> None:
    tokenizer = PromptTokenizer.from_folder(with_settings(**files))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (bos, eos, pad)
    [(before, answer)] = encode(tokenizer, ["ab"], ["c"])
    assert answer[-1] == eos
    assert (before[0] == bos) is (bos is not None)
    assert tokenizer.vocab_size == tokenizer.tokenizers[0].get_vocab_size() > 256


def test_folders_that_cannot_be_used(with_settings: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"no tokenizer\.json"):
        PromptTokenizer.from_folder(tmp_path)
    folder = with_settings(tokenizer_config={"bos_token": "<s>"})
    with pytest.raises(InvalidConfig, match="end-of-sequence"):
        PromptTokenizer.from_folder(folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(InvalidConfig, match="tokenizer_config"):
        PromptTokenizer.from_folder(folder)
    (folder / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(InvalidConfig, match="cannot be read") as caught:
        PromptTokenizer.from_folder(folder)
    assert str(tmp_path) not in caught.value.message


def test_digest_is_of_what_decides_the_ids(with_settings: Callable[..., Path], tokenizer_folder: Path) -> None:
    same = with_settings(special_tokens_map={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})
    assert tokenizer_digest(same) == tokenizer_digest(tokenizer_folder)
    (same / "special_tokens_map.json").write_text('{"eos_token": "<pad>"}')
    assert tokenizer_digest(same) != tokenizer_digest(tokenizer_folder)


def test_the_chat_template_is_found_wherever_it_is(with_settings: Callable[..., Path], tokenizer_folder: Path) -> None:
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    folder = with_settings(tokenizer_config={**special, "chat_template": "one {{ messages }}"})
    assert PromptTokenizer.from_folder(folder).chat_template == "one {{ messages }}"
    assert tokenizer_digest(folder) != tokenizer_digest(tokenizer_folder)
    several = [{"name": "tool_use", "template": "two"}, {"name": "default", "template": "three"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({**special, "chat_template": several}))
    assert PromptTokenizer.from_folder(folder).chat_template == "three"
    (folder / "chat_template.jinja").write_text("four")
    assert PromptTokenizer.from_folder(folder).chat_template == "four"
    assert PromptTokenizer.from_folder(tokenizer_folder).chat_template is None
