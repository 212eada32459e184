"""GGUF files answer as the model in transformers does, and are stopped, refused and described as they should be."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import psutil
import pytest
from jinja2 import Environment

from llm_platform.errors import Cancelled, InvalidConfig, StorageError
from llm_platform.export import export, packages
from llm_platform.export.child import run_child
from llm_platform.export.export import export_merged
from llm_platform.export.exporter import Gates
from llm_platform.export.gguf import export_gguf, keep_only
from llm_platform.export.prompting import Prompting
from llm_platform.export.runtimes import ask_llama_cpp, ask_transformers
from llm_platform.reporting import ListReporter
from llm_platform.specs import PreprocessingConfig
from tests.export.conftest import Spoken

FILES = ["Modelfile", "Modelfile.q8_0", "model-f16.gguf", "model-q8_0.gguf"]


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_answers_are_those_of_transformers(kind: str, spoken: Spoken, exported: tuple[Path, Gates], tmp_path: Path) -> None:
    folder, gates = exported
    questions = spoken.known.questions
    found = ask_llama_cpp(folder / "gguf" / f"model-{kind}.gguf", questions, tmp_path, 1, ListReporter())
    known = ask_transformers(folder / "merged", questions, spoken.known.device, spoken.known.dtype, ListReporter())
    assert [(answer.ids, answer.stopped) for answer in found.answers] == [(answer.ids, answer.stopped) for answer in known.answers]
    assert all(answer.stopped for answer in known.answers) and len({tuple(answer.ids) for answer in known.answers}) > 1
    assert found.token_ids == known.token_ids == spoken.known.token_ids and len(found.token_ids) == len(questions.prompts)
    gate = gates[f"gguf.{kind}"]
    assert (gate.accepted, gate.agreement, gate.same_end, gate.same_tokens, gate.same_template) == (True, 1.0, 1.0, 1.0, True)
    assert gate.runtime == "llama.cpp" and gate.split == "test" and 0 < gate.logit_difference < 0.1


def test_files_and_what_is_kept_of_them(exported: tuple[Path, Gates], tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    for path in (exported[0] / "gguf").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert (folder / "Modelfile.q8_0").read_text().startswith("FROM ./model-q8_0.gguf\n")
    assert keep_only(folder, ["q8_0"]).files == ["Modelfile", "model-q8_0.gguf"]
    assert (folder / "Modelfile").read_text().startswith("FROM ./model-q8_0.gguf\n")


@pytest.mark.parametrize("template", ["alpaca", "chatml", "gemma", "llama2", "llama3", "mistral", "phi", "plain", "vicuna", "zephyr"])
def test_the_modelfile_asks_as_training_did(template: str, spoken: Spoken) -> None:
    config = PreprocessingConfig.model_validate({"base_model": "org/spoken", "template": template, "system_prompt": "be short"})
    prompting = Prompting.of(config, spoken.base)
    text = prompting.modelfile("model-f16.gguf", ["</s>"])
    assert 'SYSTEM """be short"""\nPARAMETER stop "</s>"\n' in text
    go = text.partition('TEMPLATE """')[2].partition('"""')[0]
    assert len(prompting.samples) == 3
    for conversation, expected in prompting.samples:
        assert rendered(go, conversation) == expected


def test_a_template_of_prompts_and_odd_texts_in_a_modelfile(spoken: Spoken) -> None:
    source = 'Say """{{ "{{x}}" }}""" to {{ instruction }}{{ input }}\nA:'
    config = PreprocessingConfig(base_model="org/spoken", template="custom", template_source=source, system_prompt='a """ b')
    prompting = Prompting.of(config, spoken.base)
    text = prompting.modelfile("model-f16.gguf", ["</s>"])
    assert prompting.chat_template is None and "SYSTEM" not in text and "set it by hand" in text
    go = text.partition('TEMPLATE """')[2].rpartition('"""')[0]
    assert '"""' not in go
    assert Environment().from_string(go.replace(".Prompt", "Prompt").replace(".Response", "''")).render(Prompt="me") == (
        'Say """{{x}}""" to me\nA:'
    )


def rendered(go: str, conversation: list[dict[str, str]]) -> str:
    """What Ollama makes of its template, of which only these few constructs are used; Jinja runs the same steps."""
    steps = {
        "$first := true": "{% set at = namespace(first=true) %}",
        "$first = false": "{% set at.first = false %}",
        "if $first": "{% if at.first %}",
        "if $.System": "{% if system %}",
        "else": "{% else %}",
        "range .Messages": "{% for turn in turns %}",
        'if eq .Role "user"': '{% if turn["role"] == "user" %}',
        'else if eq .Role "assistant"': '{% elif turn["role"] == "assistant" %}',
        ".Content": '{{ turn["content"] }}',
        "$.System": "{{ system }}",
    }
    opened: list[str] = []

    def step(match: re.Match[str]) -> str:
        action = match[1]
        if action == "end":
            return f"{{% end{opened.pop()} %}}"
        if action.startswith(("if ", "range ")):
            opened.append("for" if action.startswith("range ") else "if")
        return steps[action]

    jinja = re.sub(r"\{\{ (.*?) \}\}", step, go)
    system = next((turn["content"] for turn in conversation if turn["role"] == "system"), "")
    return Environment(keep_trailing_newline=True).from_string(jinja).render(system=system, turns=conversation)


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(base: Path, adapter: Path, spoken: Spoken, tmp_path: Path) -> None:
    export_merged(base, adapter, tmp_path / "merged", ListReporter())
    with pytest.raises(InvalidConfig, match="does not know this model's tokenizer"):
        export_gguf(tmp_path / "merged", tmp_path / "gguf", ["f16"], spoken.prompting, ListReporter())
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_cancelling_kills_the_converter_and_leaves_nothing(spoken: Spoken, exported: tuple[Path, Gates], tmp_path: Path) -> None:
    before = psutil.Process().children()  # what other tests of this process keep, such as a resource tracker
    with pytest.raises(Cancelled):
        export_gguf(exported[0] / "merged", tmp_path / "gguf", ["f16"], spoken.prompting, ListReporter(cancel_after=0))
    assert list(tmp_path.iterdir()) == [] and psutil.Process().children() == before


def test_a_child_is_killed_even_if_it_does_not_want_to_end(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    before = psutil.Process().children()
    with pytest.raises(Cancelled):
        run_child([sys.executable, "-c", stubborn], tmp_path / "log", ListReporter(cancel_after=1))
    assert psutil.Process().children() == before


def test_too_little_space_is_known_first(
    spoken: Spoken, exported: tuple[Path, Gates], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match="are free"):
        export_gguf(exported[0] / "merged", tmp_path / "gguf", ["f16", "q8_0"], spoken.prompting, ListReporter())
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    packages.check_gguf(["f16", "q4_k_m"])
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "cyllama" else object())
    packages.check_gguf(["f16"])
    with pytest.raises(InvalidConfig, match="needs cyllama, not installed here"):
        packages.check_gguf(["f16", "q4_k_m"])
