"""Templates: their texts, and that ids and masks are those of transformers' own rendering, token by token."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from llm_platform.data.encode import encode_rows
from llm_platform.data.render import Template, check_template
from llm_platform.data.tokenize import PromptTokenizer
from llm_platform.errors import DatasetError, InvalidConfig
from llm_platform.specs import PreprocessingConfig
from llm_platform.specs.agents import TemplateName

BUILT_IN = [name for name in get_args(TemplateName) if name not in ("tokenizer", "custom")]
FOLDER = Path(__file__).parents[2] / "llm_platform" / "data" / "templates"
FAMILIES: dict[str, list[str]] = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "phi": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
}
SINGLE = [("user", "How many apples does Ana have?"), ("assistant", "Ana has 4 apples.")]
SYSTEM = [("system", "Be kind."), *SINGLE]
MULTI = [*SYSTEM, ("user", "And\n\nclips?"), ("assistant", "3 clips.\n#### 3"), ("user", "So many?"), ("assistant", "Yes")]
PADDED = [("system", " Be kind. "), ("user", " had  3 \n"), ("assistant", "so many ")]
CONVERSATIONS = {"single": SINGLE, "system": SYSTEM, "multi": MULTI, "padded": PADDED}
Messages = list[tuple[str, str]]
BOS, EOS = 1, 2


def config(template: str, **settings: Any) -> PreprocessingConfig:
    return PreprocessingConfig.model_validate({"base_model": "some/model", "template": template, "max_length": 4096, **settings})


def conversations(*rows: Messages) -> pl.DataFrame:
    columns = {"roles": [[role for role, _ in row] for row in rows], "contents": [[text for _, text in row] for row in rows]}
    return pl.DataFrame(columns).with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))


def slots(*rows: tuple[str | None, str, str, str]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=dict.fromkeys(("system", "instruction", "input", "output"), pl.String), orient="row")
    return frame.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))


def texts(template: str, frame: pl.DataFrame, **settings: Any) -> list[tuple[str, str]]:
    return Template.load(config(template, **settings), None).texts(frame).rows()


def make_family(template: str, folder: Path, out: Path) -> tuple[PromptTokenizer, PreTrainedTokenizerFast]:
    """A tokenizer with the special tokens of a model family, ours and transformers', and that template as its own."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in FAMILIES.get(template, []):
        tokenizer.add_special_tokens([AddedToken(text, rstrip=template == "phi", normalized=False, special=True)])
    tokenizer.save(str(out / "tokenizer.json"))
    source = (FOLDER / f"{template}.jinja").read_text() if template in BUILT_IN else template
    (out / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
    (out / "chat_template.jinja").write_text(source)
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=source)
    return PromptTokenizer.from_folder(out), theirs


@pytest.fixture
def any_family(any_tokenizer_folder: Path, tmp_path: Path) -> Callable[[str], tuple[PromptTokenizer, PreTrainedTokenizerFast]]:
    return lambda template: make_family(template, any_tokenizer_folder, tmp_path)


@pytest.fixture
def family(tokenizer_folder: Path, tmp_path: Path) -> Callable[[str], tuple[PromptTokenizer, PreTrainedTokenizerFast]]:
    return lambda template: make_family(template, tokenizer_folder, tmp_path)


def ids_of(theirs: PreTrainedTokenizerFast, text: object) -> list[int]:
    """Of a text without line ends behind it."""
    return encoded(theirs, str(text).rstrip("\n"))


def encoded(theirs: PreTrainedTokenizerFast, text: str) -> list[int]:
    return theirs.backend_tokenizer.encode(text, add_special_tokens=False).ids


def expected(theirs: PreTrainedTokenizerFast, messages: Messages) -> tuple[list[int], list[bool], bool]:
    """Transformers' ids of the conversation without white space behind the last turn; trained is what each answer adds to what it
    renders to ask for it, up to the white space behind the answer's turn. The last says whether a token spans the two: then
    generation never sees what the ids of the whole text say, and only what comes before the first answer is given."""
    turns = [{"role": role, "content": content} for role, content in messages]
    ids = ids_of(theirs, theirs.apply_chat_template(turns, tokenize=False))
    mask = [False] * len(ids)
    for index, turn in enumerate(turns):
        if turn["role"] == "assistant":
            before = str(theirs.apply_chat_template(turns[:index], tokenize=False, add_generation_prompt=True))
            asked = encoded(theirs, before)
            end = len(ids_of(theirs, theirs.apply_chat_template(turns[: index + 1], tokenize=False)))
            if ids[: len(asked)] != asked:
                bos = [] if asked[0] == BOS else [BOS]
                return [*bos, *asked], [False] * len([*bos, *asked]), True
            mask[len(asked) : end] = [True] * (end - len(asked))
    if ids[0] != BOS:
        ids, mask = [BOS, *ids], [False, *mask]
    if ids[-1] != EOS:
        ids, mask = [*ids, EOS], [*mask, True]
    return ids, mask, False


@pytest.mark.parametrize("template", BUILT_IN)
def test_ids_and_masks_are_those_of_transformers(template: str, any_family: Any) -> None:
    ours, theirs = any_family(template)
    rows = list(CONVERSATIONS.values()) if template not in ("alpaca", "plain") else [SINGLE, SYSTEM, MULTI]
    found = encode_rows(conversations(*rows), Template.load(config(template), ours), ours, config(template)).table.to_pylist()
    for row, messages in zip(found, rows, strict=True):
        ids, mask, spans = expected(theirs, messages)
        assert row["input_ids"][: len(ids) if spans else None] == ids, messages
        assert row["loss_mask"][: len(ids) if spans else None] == mask, messages
        assert not spans or row["loss_mask"][len(ids)]
        assert row["completion"] == messages[-1][1]
        assert not any(row["loss_mask"][row["prompt_length"] - 1 : row["prompt_length"]])
        assert all(row["loss_mask"][row["prompt_length"] :])
        assert template == "llama2" or row["input_ids"].count(ours.bos_id) == 1


@pytest.mark.parametrize("template", BUILT_IN)
def test_a_built_in_template_is_what_it_would_be_as_the_tokenizers_own(template: str, family: Any) -> None:
    ours, _ = family(template)
    rows = conversations(*CONVERSATIONS.values())
    one, other = (encode_rows(rows, Template.load(config(name), ours), ours, config(name)).table for name in (template, "tokenizer"))
    assert one.equals(other)


TEXTS = {
    "alpaca": "Be kind.\n\n### Instruction:\nHi\n\n### Response:\nHo</s>\n\n### Instruction:\nAnd?\n\n### Response:\n",
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n",
    "llama2": "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Ho </s><s>[INST] And? [/INST]",
    "llama3": "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": " [INST] Be kind.\n\nHi [/INST] Ho</s> [INST] And? [/INST]",
    "gemma": "<start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n<start_of_turn>user\nAnd?"
    "<end_of_turn>\n<start_of_turn>model\n",
    "phi": "<|system|>\nBe kind.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHo<|end|>\n<|user|>\nAnd?<|end|>\n<|assistant|>\n",
    "zephyr": "<|system|>\nBe kind.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHo</s>\n<|user|>\nAnd?</s>\n<|assistant|>\n",
    "vicuna": "Be kind. USER: Hi ASSISTANT: Ho</s>USER: And? ASSISTANT:",
    "plain": "Be kind.\nHiHo</s>And?",
}


@pytest.mark.parametrize("template", BUILT_IN)
def test_texts_of_the_families(template: str, tokenizer_folder: Path) -> None:
    made = Template.load(config(template), PromptTokenizer.from_folder(tokenizer_folder))
    row = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Ho"), ("user", "And?"), ("assistant", "So.")]
    assert made.texts(conversations(row)).rows() == [(TEXTS[template], "So.")]
    pickled = pickle.loads(pickle.dumps(made))
    assert pickled.mark(conversations(row)).rows() == made.mark(conversations(row)).rows()


BEGIN = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request."


def test_alpaca_wording() -> None:
    frame = slots((None, "Add.", "1 and 2", "3"), (None, "Say hi {{ 7*7 }} {% raw %}", "", "hi"), ("", "a", "\n", "b"))
    assert texts("alpaca", frame) == [
        (
            f"{BEGIN}, paired with an input that provides further context. {REQUEST}\n\n"
            "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n",
            "3",
        ),
        (f"{BEGIN}. {REQUEST}\n\n### Instruction:\nSay hi {{{{ 7*7 }}}} {{% raw %}}\n\n### Response:\n", "hi"),
        (
            f"{BEGIN}, paired with an input that provides further context. {REQUEST}\n\n"
            "### Instruction:\na\n\n### Input:\n\n\n\n### Response:\n",
            "b",
        ),
    ]


def test_slots_in_chat_templates() -> None:
    frame = slots(("Be kind.", "Add.", "1 and 2", "3"), (None, "Hi", "", "Ho"), (None, "", "x", "y"))
    begin, end = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    system = "<|im_start|>system\nBe kind.<|im_end|>\n"
    assert texts("chatml", frame) == [
        (f"{system}{begin}Add.\n\n1 and 2{end}", "3"), (f"{begin}Hi{end}", "Ho"), (f"{begin}x{end}", "y"),
    ]  # fmt: skip
    assert texts("plain", frame) == [("Be kind.\nAdd.\n1 and 2", "3"), ("Hi", "Ho"), ("x", "y")]


def test_text_alone_has_no_prompt(any_tokenizer_folder: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(any_tokenizer_folder)
    frame = slots(*[(None, "", "", "Ana had 3 apples.")] * 3)
    row, *more = (
        encode_rows(frame, Template.load(config("plain"), tokenizer), tokenizer, config("plain")).table.drop_columns("row").to_pylist()
    )
    assert more == [row, row]
    alone = Tokenizer.from_file(str(any_tokenizer_folder / "tokenizer.json"))
    ids = alone.encode("Ana had 3 apples.", add_special_tokens=False).ids
    assert row["input_ids"] == [tokenizer.bos_id, *ids, tokenizer.eos_id]
    assert row["loss_mask"] == [False] + [True] * (len(ids) + 1)
    assert (row["prompt"], row["prompt_length"]) == ("", 1)


@pytest.mark.parametrize("name", [*BUILT_IN, "custom"])
def test_special_tokens_in_contents_are_text(name: str, family: Any) -> None:
    template = name if name in BUILT_IN else "chatml"
    ours, _ = family(template)
    special = "".join(["</s>", "<s>", *FAMILIES.get(template, [])])
    made = config(name) if name in BUILT_IN else config(name, template_source=(FOLDER / "chatml.jinja").read_text())
    clean = conversations([("user", "a b"), ("assistant", "c d")], [("user", "a b"), ("assistant", "c d</s></s>")])
    dirty = conversations([("user", f"a {special} b"), ("assistant", f"c {special} d")])
    first, second = encode_rows(clean, Template.load(made, ours), ours, made).table["input_ids"].to_pylist()
    assert first == second, "an EOS token that is written out at an answer's end is not doubled"
    [row] = encode_rows(dirty, Template.load(made, ours), ours, made).table.to_pylist()
    reserved = {token.id for token in ours.specials.tokens.values()} - {ours.tokenizers[0].token_to_id("<unk>")}
    assert [id for id in row["input_ids"] if id in reserved] == [id for id in first if id in reserved]
    assert special in row["prompt"] and row["completion"] == f"c {special} d"


def test_turns_of_tools() -> None:
    row = [("user", "a"), ("assistant", "call"), ("tool", "found"), ("assistant", "b")]
    assert "<|im_start|>tool\nfound<|im_end|>" in texts("chatml", conversations(row))[0][0]
    assert "<|start_header_id|>ipython<|end_header_id|>\n\nfound" in texts("llama3", conversations(row))[0][0]
    for template in ("alpaca", "llama2", "mistral", "gemma", "phi", "zephyr", "vicuna"):
        with pytest.raises(DatasetError, match=f"such as row 2: {template} has no place for a turn of tool") as caught:
            texts(template, conversations(SINGLE, row))
        assert caught.value.metadata["rows"] == [2]


def test_noncharacters_in_contents_are_kept(tokenizer_folder: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    content = "".join(map(chr, range(0xFDD0, 0xFDF0))) + "\ufddfA"
    made = config("plain")
    [row] = encode_rows(slots((None, f"a{content}", "", f"b{content}")), Template.load(made, tokenizer), tokenizer, made).table.to_pylist()
    assert row["prompt"] == f"a{content}" and row["completion"] == f"b{content}"
    assert tokenizer.decode(row["input_ids"]) == f"a{content}b{content}"


def test_a_custom_prompt_template() -> None:
    source = "{% if system %}{{ system }}\n{% endif %}Q: {{ instruction }}{% if input %} ({{ input }}){% endif %}\nA:\n"
    frame = slots(("Be kind.", "Add.", "1 and 2", "3"), (None, "Hi", "", "Ho"))
    assert texts("custom", frame, template_source=source) == [("Be kind.\nQ: Add. (1 and 2)\nA:\n", "3"), ("Q: Hi\nA:\n", "Ho")]
    assert texts("custom", conversations(SYSTEM), template_source=source)[0][0].startswith("Be kind.\nQ: How many")
    with pytest.raises(DatasetError, match="write it over messages for conversations"):
        texts("custom", conversations(MULTI), template_source=source)


def test_a_custom_chat_template(tokenizer_folder: Path) -> None:
    source = (
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}A: {% generation %}{{ message.content }}"
        "{{ eos_token }}{% endgeneration %}\n{% else %}{{ message.role }}: {{ message.content }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}A: {% endif %}"
    )
    tokenizer = PromptTokenizer.from_folder(tokenizer_folder)
    made = config("custom", template_source=source)
    [row] = encode_rows(slots((None, "Add.", "1", "3")), Template.load(made, tokenizer), tokenizer, made).table.to_pylist()
    assert row["prompt"] == "user: Add.\n\n1\nA: "
    assert tokenizer.decode(row["input_ids"][row["prompt_length"] :], skip_special_tokens=False).strip() == "3</s>"
    assert row["input_ids"].count(tokenizer.bos_id) == row["input_ids"].count(tokenizer.eos_id) == 1


REFUSED = {
    "{% for message in messages %}": "line 1: Unexpected end of template",
    "{{ ().__class__ }}{{ instruction }}": "line 1: access to attribute '__class__' is unsafe",
    "{{ instruction['__class__'] }}": "is unsafe",
    "{{ instruction|attr('__class__') }}": "unsafe|no attribute",
    "{{ messages.append(1) }}": "unsafe",
    "{{ namespace(_x=1) }}{{ instruction }}": "unsafe",
    "{{ instruktion }}": "it reads instruktion, which it is not given",
    "no place": "it uses no part of a row",
    "{{ instruction.nothing }}": "no attribute 'nothing'",
    "{{ raise_exception('not today') }}{{ messages }}": "not today",
    "{% for i in range(10**9) %}{% endfor %}{{ instruction }}": "(?i)range too big",
    "{% for i in range(9999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{{ instruction }}": "longer than 1 s",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}{{ instruction }}": "calls itself without end",
    "{{ 'a' * 10**10 }}{{ instruction }}": "too much memory",
    "{% for i in range(30000) %}{{ 'abc' * 100 }}{% endfor %}{{ instruction }}": "more than 1,000,[0-9]* characters",
    "{{ 10 ** (10 ** 9) }}{{ instruction }}": "takes too long|takes longer|too much memory",
    "{{ instruction.format() if false }}{{ '\\ud800' }}": "not valid Unicode",
    "{{ instruction }}\ufdd0": "noncharacters",
    "{% for m in messages %}{{ m.role }}{% endfor %}": "does not contain the answer",
    "{% if add_generation_prompt %}?{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}": "is not how the conversation",
}


@pytest.mark.parametrize("source", REFUSED, ids=range(len(REFUSED)))
def test_custom_templates_that_are_refused(source: str) -> None:
    with pytest.raises(InvalidConfig, match=REFUSED[source]) as caught:
        check_template(config("custom", template_source=source))
    assert [error["field"] for error in caught.value.metadata["errors"]] == ["template_source"]
    assert "/" not in caught.value.message.replace(source, "")


def test_templates_that_are_not_custom_are_not_checked_at_all() -> None:
    for template in [*BUILT_IN, "tokenizer"]:
        check_template(config(template))


def test_a_base_model_without_a_chat_template(tokenizer_folder: Path) -> None:
    with pytest.raises(InvalidConfig, match="no chat template of its own"):
        Template.load(config("tokenizer"), PromptTokenizer.from_folder(tokenizer_folder))


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        ("{% for m in messages %}", InvalidConfig, "The base model's chat template is no template that can be used: line 1"),
        ("{% for i in range(9999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", DatasetError, "row 1: it takes longer than 1 s"),
        (
            "{% for m in messages %}{{ m.content }}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}",
            DatasetError,
            "row 2: no system",
        ),
        ("{{ messages[-1].content }}", DatasetError, "row 1: what it writes before an answer"),
    ],
)
def test_chat_templates_of_base_models_that_fail(source: str, error: type[Exception], match: str, family: Any) -> None:
    ours, _ = family(source)
    with pytest.raises(error, match=match):
        Template.load(config("tokenizer"), ours).mark(conversations(SINGLE, SYSTEM))


def test_a_chat_template_that_ends_every_rendering_with_eos(family: Any) -> None:
    """As Phi-3's own: the end of the conversation is not the end of an answer's turn."""
    source = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
    )
    ours, _ = family(source)
    rows = conversations(MULTI)
    found = [encode_rows(rows, Template.load(config(name), ours), ours, config(name)).table for name in ("tokenizer", "phi")]
    own, built_in = (table["prompt"].to_pylist() for table in found)
    assert own == built_in
    masks = [table["loss_mask"].to_pylist()[0] for table in found]
    assert masks[0][: len(masks[1]) - 1] == masks[1][:-1]
    assert found[0]["input_ids"].to_pylist()[0].count(ours.eos_id) == 1
