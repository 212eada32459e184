"""`llm-platform verify`: a byte that changed anywhere in a model's lineage is found, and only there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_platform.agents import Node, Platform, run_node
from llm_platform.errors import NotFound
from llm_platform.models import registered
from llm_platform.registry.lineage import head, lineage
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings
from llm_platform.specs.results import NodeResult
from llm_platform.verify import Verification, main, verify
from tests.tiny_models import COLOURS, make_base

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning",
    "ignore:.*Any type hint is inferred as AnyType:UserWarning",  # when MLflow imports its own module
)
MODEL = "model_r"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with one model that was trained on a file, and an export of it that is not its weights."""
    home = tmp_path_factory.mktemp("verify")
    make_base(home / "models" / "base")
    rows = "".join(f"{one} {two} w{number},{one}\n" for number, one in enumerate(COLOURS) for two in COLOURS[:5])
    (home / "rows.csv").write_text(f"instruction,output\n{rows}")
    url = f"sqlite:///{home / 'home' / 'mlflow.db'}"
    made = Platform.from_settings(Settings(home=home / "home", model_roots=[home / "models"], mlflow_url=url, threads=1))
    made.storage.put_file(home / "rows.csv", "s3://datasets/rows.csv")
    base = str(home / "models" / "base")
    run(made, "rows", "DatasetAgent", [], file_path="s3://datasets/rows.csv")
    run(made, "splits", "PreprocessingAgent", ["rows"], base_model=base, template="plain", dedup=False, split={"near_duplicates": "ignore"})
    run(made, "train", "TrainingAgent", ["splits"], max_steps=1)
    (home / "merged").mkdir()
    (home / "merged" / "model.safetensors").write_bytes(bytes(range(256)) * 20)
    stored = made.storage.put_folder(home / "merged", "s3://artifacts/r/merged")
    made.registry.set_export(MODEL, "merged", stored.address, stored.sha256)
    yield made
    made.close()


def run(platform: Platform, name: str, kind: str, inputs: list[str], **config: object) -> NodeResult:
    body = {"run_id": "r", "agent_name": name, "agent_class": kind, "inputs": inputs, "peers": 1, "config": config}
    return run_node(platform, Node.from_dict(body), ListReporter())


def look(platform: Platform, reporter: ListReporter | None = None) -> Verification:
    return verify(MODEL, platform.registry, platform.storage, platform.settings, reporter or ListReporter())


def stored(platform: Platform, kind: str) -> Path:
    """The one file of a kind of link whose byte a test turns over."""
    model = registered(MODEL, platform.registry)
    links = {link.kind: link for link in lineage(model)}
    objects = platform.settings.root / "objects"
    if kind == "base model":
        return platform.settings.model_roots[0] / "base" / "model.safetensors"
    if kind == "registered":
        return next(platform.settings.root.rglob("mlartifacts/**/adapter_model.safetensors"))
    link = next(one for one in lineage(model) if one.kind == "export" and one.name == "merged") if kind == "export" else links[kind]
    path = objects / str(link.address).removeprefix("s3://")
    inside = {"rows": "train.parquet", "weights": "adapter_model.safetensors", "export": "model.safetensors"}
    return path / inside[kind] if kind in inside else path


def test_a_whole_model_holds(trained: Platform) -> None:
    reporter = ListReporter()
    found = look(trained, reporter)
    assert found.ok and all(link.ok and link.found_hash == link.hash and link.found_sha256 == link.sha256 for link in found.links), found
    names = [(link.kind, link.name) for link in found.links]
    base = str(trained.settings.model_roots[0] / "base")
    assert names == [
        ("dataset", "rows.csv"),
        ("table", "rows.csv"),
        ("base model", base),
        ("rows", "prepared"),
        ("config", "training"),
        ("weights", "adapter"),
        ("registered", "adapter"),
        ("export", "adapter"),
        ("export", "merged"),
    ]
    assert found.hash == head(lineage(registered(MODEL, trained.registry)))
    read = [(text, data["done"], data["total"]) for level, text, data in reporter.lines if level == "PROGRESS"]
    assert {text for text, _, _ in read} >= {"dataset rows.csv", "rows prepared", f"base model {base}", "registered adapter"}
    assert all(done <= total for _, done, total in read)


@pytest.mark.parametrize("kind", ["dataset", "table", "base model", "rows", "weights", "registered", "export"])
def test_a_byte_that_was_turned_over_is_found(trained: Platform, kind: str) -> None:
    file = stored(trained, kind)
    before, state = file.read_bytes(), file.stat()
    turned = bytearray(before)
    turned[len(turned) // 2] ^= 1
    try:
        file.chmod(0o644)
        file.write_bytes(bytes(turned))
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))  # a disk that rots changes no time
        found = look(trained)
    finally:
        file.write_bytes(before)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    broken = [link for link in found.links if not link.ok]
    # The adapter is exported as it is: it is the same bytes.
    assert [link.kind for link in broken] == ([kind, "export"] if kind == "weights" else [kind]) and not found.ok
    assert "differs: its SHA-256 is" in broken[0].problems[0] and (file.name in broken[0].problems[0] or broken[0].problems[0][:2] == "it")
    assert broken[0].found_sha256 != broken[0].sha256
    changed = {link.kind for link in found.links if link.found_hash != link.hash}
    assert changed >= {kind} and ("weights" in changed) == (kind not in ("registered", "export"))
    assert look(trained).ok


def test_what_is_gone_or_was_never_recorded_is_broken(trained: Platform) -> None:
    file = stored(trained, "rows")
    shutil.move(file, file.with_suffix(".away"))
    try:
        (link,) = [link for link in look(trained).links if not link.ok]
    finally:
        shutil.move(file.with_suffix(".away"), file)
    assert (link.kind, link.problems[0]) == ("rows", "train.parquet is missing")
    config = registered(MODEL, trained.registry).training_config
    begun = trained.registry.begin("model_bare", "bare", "train", "bare", "org/none", config, {}, [])
    trained.registry.register(begun, stored(trained, "weights").parent, "bare")
    bare = verify("model_bare", trained.registry, trained.storage, trained.settings, ListReporter())
    problems = {link.kind: link.problems for link in bare.links if not link.ok}
    assert problems.keys() == {"base model", "rows", "weights"}
    assert {problem for found in problems.values() for problem in found} == {
        "the registry has no digest of it, so nothing proves what it was"
    }
    with pytest.raises(NotFound):
        verify("model_none", trained.registry, trained.storage, trained.settings, ListReporter())


def test_the_command_says_which_link_is_broken(trained: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    file = stored(trained, "export")
    before = file.read_bytes()
    file.write_bytes(before[:-1] + b"\x00")
    call = [sys.executable, "-m", "llm_platform", "verify", MODEL, "--home", str(trained.settings.root)]
    roots = {"LLM_PLATFORM_MODEL_ROOTS": json.dumps([str(trained.settings.model_roots[0])])}
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=120, env={**os.environ, **roots})
    finally:
        file.write_bytes(before)
    assert done.returncode == 1, done.stderr
    assert [line[:6] for line in done.stdout.splitlines() if line[:2] in ("OK", "BR")].count("BROKEN") == 1
    assert "export merged" in done.stdout and "model.safetensors differs" in done.stdout and "1 of 9 links are broken" in done.stdout
    assert main(MODEL, True, trained.settings) == 0
    assert Verification.model_validate_json(capsys.readouterr().out).ok
