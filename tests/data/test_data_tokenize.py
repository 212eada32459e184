"""Token ids and masks, exact for every kind of tokenizer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors

from llm_platform.data.tokenize import PromptTokenizer, tokenizer_digest
from llm_platform.errors import InvalidConfig

PROMPTS = ["Q: how many apples?\n\n### Response:\n", "Ana had 3 apples.", "ends with a space ", "ü 日本\n", "a\n\n", ""]
COMPLETIONS = ["Ana has 4 apples.", " leading space", "\nnewline first", "#### 42", "日本 👩‍🚀", "4", "s", "", "a\n\nb  c "]
PAIRS = list(itertools.product(PROMPTS, COMPLETIONS))


@pytest.fixture
def any_tokenizer(any_tokenizer_folder: Path) -> PromptTokenizer:
    return PromptTokenizer.from_folder(any_tokenizer_folder)


def can_write(tokenizer: PromptTokenizer, text: str) -> bool:
    """Without byte fallback a tokenizer loses characters that it does not know."""
    unknown = tokenizer.prompts.token_to_id("<unk>")
    return unknown not in tokenizer.prompts.encode(text, add_special_tokens=False).ids


def test_ids_and_mask_are_exact(any_tokenizer: PromptTokenizer) -> None:
    tokenizer = any_tokenizer
    rows = tokenizer.encode([prompt for prompt, _ in PAIRS], [completion for _, completion in PAIRS])
    for (prompt, completion), (ids, mask) in zip(PAIRS, rows, strict=True):
        begin = [tokenizer.bos_id, *tokenizer.prompts.encode(prompt, add_special_tokens=False).ids]
        assert len(ids) == len(mask)
        assert mask == [False] * len(begin) + [True] * (len(ids) - len(begin))
        assert ids[: len(begin)] == begin == tokenizer.encode_prompts([prompt])[0]
        assert ids[-1] == tokenizer.eos_id
        assert ids.count(tokenizer.eos_id) == 1
        assert ids[0] not in ids[1:]
        if prompt and can_write(tokenizer, prompt + completion):
            whole = tokenizer.prompts.encode(prompt + completion, add_special_tokens=False).ids
            assert tokenizer.decode(ids) == tokenizer.decode(whole)


def test_prompt_and_completion_are_decoded_to_the_letter(tokenizer_folder: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    for (prompt, completion), (ids, _) in zip(PAIRS, tokenizer.encode(*zip(*PAIRS, strict=True)), strict=True):
        if prompt:
            assert tokenizer.decode(ids) == prompt + completion


def test_where_tokens_align_the_ids_are_those_of_the_whole_text(any_tokenizer: PromptTokenizer, qa_rows: list[dict[str, str]]) -> None:
    prompts = [f"### Instruction:\n{row['question']}\n\n### Response:\n" for row in qa_rows[:300]]
    answers = [row["answer"] for row in qa_rows[:300]]
    whole = any_tokenizer.prompts.encode_batch([p + a for p, a in zip(prompts, answers, strict=True)], add_special_tokens=False)
    compared = 0
    for prompt, encoding, (ids, _) in zip(prompts, whole, any_tokenizer.encode(prompts, answers), strict=True):
        if any(start == len(prompt) for start, _ in encoding.offsets) and can_write(any_tokenizer, prompt):
            aligned = encoding.ids[: len(ids) - 2]
            compared += aligned == ids[1:-1]
    assert compared >= 290 or any_tokenizer.prompts.token_to_id("<0x0A>") is None


def test_special_tokens_in_a_text_are_text(tokenizer_folder: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    [(ids, mask)] = tokenizer.encode(["say </s> and <s>"], ["the token </s> ends<pad> it"])
    assert ids[0] == tokenizer.bos_id
    assert {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id}.isdisjoint(ids[1:-1])
    assert tokenizer.decode(ids) == "say </s> and <s>the token </s> ends<pad> it"
    assert any(mask)


def test_eos_is_never_doubled(tokenizer_folder: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    plain, written, twice = tokenizer.encode(["p"] * 3, ["yes", "yes</s>", "yes</s></s>"])
    assert plain == written == twice


def test_settings_saved_in_the_tokenizer_do_not_matter(tokenizer_folder: Path, tmp_path: Path) -> None:
    expected = PromptTokenizer.from_folder(tokenizer_folder).encode(["a prompt"], ["an answer"])
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_bytes((tokenizer_folder / "tokenizer_config.json").read_bytes())
    assert PromptTokenizer.from_folder(tmp_path).encode(["a prompt"], ["an answer"]) == expected


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
    [(ids, mask)] = tokenizer.encode(["ab"], ["c"])
    assert ids[-1] == eos
    assert mask[0] is False
    assert tokenizer.vocab_size == tokenizer.prompts.get_vocab_size() > 256


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
