"""Words looked up have the ids that whole texts have, for any tokenizer and any text."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from llm_platform.data.marks import Part, escape, lay_out
from llm_platform.data.tokenize import PromptTokenizer
from llm_platform.data.words import cuts

PIECES = (
    *("Ana", "had", "apples", "many", "now?", "4", "3141", "+", ".", ",", "/", "'s", "don't", "####", "日本語", "ü", "e\u0301", "\u0301"),
    *("\U0001f469\u200d\U0001f680", "\U0001f1e9", "¨", "\u037a", "ﷺ", "▁", "had▁ apples", "had ▁apples", "Ġ", "Ċ"),
    *(" ", " ", " ", "  ", "   ", "\n", "\n", "\n\n", "\t", "\r\n", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\u0085"),
    *("\x1c", "\u180e", "\u200b", "\ufeff", "\x00", "\ufdd0", "\ufdd7", "\ufddf", "\ufddfA", "</s>", "<s>", "<|im_end|>"),
)
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=12).map("".join)
ROWS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12)
NO_CHECK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60, derandomize=True)


def marked(rows: list[tuple[str, str]], tokenizer: PromptTokenizer) -> pl.Series:
    segments: list[list[list[Part]]] = [[[escape(prompt)], [escape(answer)]] for prompt, answer in rows]
    return pl.Series(["".join(map(str, lay_out(row, tokenizer.specials))) for row in segments])


def whole(prompt: str, answer: str, tokenizer: PromptTokenizer) -> list[int]:
    """The ids by the tokenizers alone. Special tokens of a prompt are tokens here, as those of a template are."""
    found: list[int] = []
    for part, more in ((prompt, False), (answer, bool(prompt))):
        after = False
        for number, text in enumerate(tokenizer.specials.pattern.split(part) if tokenizer.specials.pattern else [part]):
            if number % 2:
                found.append(tokenizer.specials.tokens[text].id)
                after = True
            elif text:
                place = 1 if after or (more and found and prompt.endswith(tuple(tokenizer.specials.tokens))) else 2 if more else 0
                found += tokenizer.tokenizers[place].encode(text, add_special_tokens=False).ids
    found = found if found[:1] == [tokenizer.bos_id] else [tokenizer.specials.bos_id or 0, *found]
    return found if found[-1] == tokenizer.eos_id and len(found) > 1 else [*found, tokenizer.eos_id]


@given(rows=ROWS)
@NO_CHECK
def test_ids_are_those_of_whole_texts(any_tokenizer_folder: Path, rows: list[tuple[str, str]]) -> None:
    tokenizer = _loaded(any_tokenizer_folder)
    assert tokenizer.cuts[0]
    found = tokenizer.encode(marked(rows, tokenizer))
    parts = [found.ids[start:end].tolist() for start, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    assert parts == [whole(prompt, answer, tokenizer) for prompt, answer in rows]
    assert tokenizer._words.cuts == tokenizer.cuts, "the check of the words against whole texts has found a difference"


_LOADED: dict[Path, PromptTokenizer] = {}


def _loaded(folder: Path) -> PromptTokenizer:
    """One for all examples, so that the words of earlier examples are looked up."""
    return _LOADED.setdefault(folder, PromptTokenizer.from_folder(folder))


def test_texts_come_apart_where_they_may(tokenizer_folder: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    tokenizer.encode(marked([("Ana had  3 apples.\nHow many\n- two\n\nthree", "four")], tokenizer))
    words = {word.strip("\ufdd1\ufdd3\ufdd7") for word in tokenizer._words._seen if word[0] not in "\ufdd0\ufdd4\ufdd6"}
    assert {"Ana", " had  3", " apples.\n", "How", " many\n", "-", " two\n\nthree", "four"} <= words


def test_what_was_seen_is_bounded(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_platform.data.words.MOST_WORDS", 50)
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    rows = [(f"Ana has {number} and {number * 7} clips, {'x' * 100}", "so") for number in range(40)]
    for row in rows:
        tokenizer.encode(marked([row], tokenizer))
        assert len(tokenizer._words._seen) <= 50
        assert max(map(len, tokenizer._words._seen)) <= 64
    assert tokenizer.encode(marked(rows, tokenizer)).ids.tolist() == [id for row in rows for id in whole(*row, tokenizer)]


def test_a_difference_is_noticed_and_told_once(tokenizer_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    vocabulary, merges = settings["model"]["vocab"], settings["model"]["merges"]
    vocabulary["d▁3"] = len(vocabulary)
    vocabulary["d▁"] = len(vocabulary)
    merges[:0] = [["d", "▁"], ["d▁", "3"]]
    assert cuts(settings) == (False, False)
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    crossing = Tokenizer.from_str(json.dumps(settings))
    words = tokenizer._words
    words.tokenizers = (crossing, crossing, crossing)
    with caplog.at_level(logging.WARNING):
        first = tokenizer.encode(marked([("Ana had 3 apples.", "yes")], tokenizer))
        again = tokenizer.encode(marked([("Ana had 3 apples.", "yes")], tokenizer))
    assert vocabulary["d▁3"] in first.ids.tolist() == again.ids.tolist()
    [told] = [record.message for record in caplog.records]
    assert told.startswith("Words and whole texts have different tokens with this tokenizer")


def _changed(folder: Path, **changes: Any) -> dict[str, Any]:
    settings = json.loads((folder / "tokenizer.json").read_text())
    for name, value in changes.items():
        settings[name] = settings[name] | value if isinstance(settings[name], dict) else value
    return settings


def test_tokenizers_that_cannot_be_cut(tokenizer_folder: Path) -> None:
    assert cuts(_changed(tokenizer_folder)) == (True, True)
    assert cuts(_changed(tokenizer_folder, model={"dropout": 0.1})) == (False, False)
    assert cuts(_changed(tokenizer_folder, model={"ignore_merges": True})) == (False, False)
    assert cuts(_changed(tokenizer_folder, normalizer={"normalizers": [{"type": "Lowercase"}]})) == (False, False)
    split = {"type": "Split", "pattern": {"Regex": "b"}, "behavior": "Isolated", "invert": False}
    assert cuts(_changed(tokenizer_folder, pre_tokenizer=split)) == (False, False)
    spaced = [{"content": "two words", "special": False}]
    assert cuts(_changed(tokenizer_folder, added_tokens=spaced)) == (False, False)
    with_line_end = _changed(tokenizer_folder)
    with_line_end["model"]["vocab"]["\nso"] = 5_000
    assert cuts(with_line_end) == (True, False)
    word_level = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    word_level.pre_tokenizer = pre_tokenizers.Whitespace()
    assert cuts(json.loads(word_level.to_str())) == (False, False)


@pytest.mark.parametrize("token", ["<think>", "<two words>"])
def test_added_tokens_that_are_not_special(any_tokenizer_folder: Path, tmp_path: Path, token: str) -> None:
    """They are tokens in any text, and what is behind them begins a text."""
    tokenizer = Tokenizer.from_file(str(any_tokenizer_folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(token, normalized=False)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_bytes((any_tokenizer_folder / "tokenizer_config.json").read_bytes())
    loaded = PromptTokenizer.from_folder(tmp_path)
    rows = [(f"Ana had{token} 3 apples", "yes"), ("Ana had 3 apples", f"{token}so{token}"), ("no", "none")]
    found = loaded.encode(marked(rows, loaded)).ids.tolist()
    assert found == [id for row in rows for id in whole(*row, loaded)]
    assert found.count(tokenizer.token_to_id(token)) == 3
