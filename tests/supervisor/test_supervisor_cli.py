"""The command `llm-platform` as a user meets it: a program with exit codes and lines of text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

COMMANDS = ["up", "demo", "cp", "reindex", "train", "keys", "prune"]


def llm_platform(*arguments: str | Path, home: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120", **({"LLM_PLATFORM_HOME": str(home)} if home else {}), **variables}
    command = [sys.executable, "-m", "llm_platform", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_help_names_every_command() -> None:
    done = llm_platform("--help")
    assert done.returncode == 0
    assert all(f" {command} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = llm_platform(command, "--help")
    assert done.returncode == 0 and f"llm_platform {command} [OPTIONS]" in done.stdout.replace("-", "_")


def test_version() -> None:
    assert llm_platform("--version").stdout == f"llm-platform {version('llm-platform')}\n"


def test_cp_puts_a_file_where_pipelines_read_it(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\nwhy?,because\n")
    done = llm_platform("cp", tmp_path / "rows.csv", "s3://datasets/training/rows.csv", "--home", tmp_path / "home")
    assert done.returncode == 0 and "s3://datasets/training/rows.csv" in done.stdout
    assert (tmp_path / "home" / "objects" / "datasets" / "training" / "rows.csv").read_text().startswith("question,answer")


@pytest.mark.parametrize(
    "address", ["/etc/rows.csv", "s3://datasets/../../rows.csv", "https://example.test/rows.csv", "s3://typo/rows.csv"]
)
def test_what_goes_wrong_on_purpose_is_one_line(tmp_path: Path, address: str) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n")
    done = llm_platform("cp", tmp_path / "rows.csv", address, home=tmp_path / "home")
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    made = llm_platform("keys", "create", "ada", "--scope", "admin", "--expires-in-days", "3", home=tmp_path)
    assert made.returncode == 0 and made.stdout.startswith("llmp_") and made.stdout.count("\n") == 1, "to be piped"
    key_id = made.stdout.split("_")[1]
    listed = llm_platform("keys", "list", home=tmp_path).stdout
    assert key_id in listed and "admin" in listed and "ada" in listed and "valid until" in listed and made.stdout.strip() not in listed
    assert llm_platform("keys", "revoke", key_id, home=tmp_path).returncode == 0
    assert "revoked" in llm_platform("keys", "list", home=tmp_path).stdout
    wrong = llm_platform("keys", "create", "ada", "--scope", "root", home=tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("Error: ") and "'admin'" in wrong.stderr
    unknown = llm_platform("keys", "revoke", "none", home=tmp_path)
    assert unknown.returncode == 1 and unknown.stderr == "Error: There is no key 'none'\n"


@pytest.mark.parametrize("command", [["up"], ["serve", "api"]])
def test_others_are_not_let_in_without_authentication(tmp_path: Path, command: list[str]) -> None:
    done = llm_platform(*command, "--host", "0.0.0.0", home=tmp_path / "home")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "LLM_PLATFORM_AUTHENTICATION=true" in done.stderr and "llm-platform keys create NAME" in done.stderr


@pytest.mark.slow  # MLflow takes its time to make its tables
def test_reindex_counts_the_models_of_an_empty_home(tmp_path: Path) -> None:
    done = llm_platform("reindex", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0 models\n"


def test_train_refuses_options_that_make_no_sense_before_it_works(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\nwhy?,because\n")
    done = llm_platform(
        "train", tmp_path / "rows.csv", "--out", tmp_path / "adapter", "--epochs", "0", "--learning-rate", "-1", home=tmp_path
    )
    assert done.returncode == 2
    assert "--epochs" in done.stderr and "--learning-rate" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "adapter").exists()


def test_train_does_not_touch_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\nwhy?,because\n")
    (tmp_path / "adapter").mkdir()
    done = llm_platform("train", tmp_path / "rows.csv", "--out", tmp_path / "adapter", home=tmp_path)
    assert done.returncode == 1 and "--out" in done.stderr


def test_train_makes_an_adapter_without_any_service(tmp_path: Path) -> None:
    from tests.tiny_models import make_base

    base = make_base(tmp_path / "models" / "tiny")
    (tmp_path / "rows.csv").write_text("question,answer\n" + "".join(f"where is number {i}?,on shelf {i % 7}\n" for i in range(60)))
    done = llm_platform(
        *("train", tmp_path / "rows.csv", "--out", tmp_path / "adapter", "--base-model", base, "--max-steps", "2"),
        *("--template-question", "question", "--template-answer", "answer"),
        home=tmp_path / "home",
        LLM_PLATFORM_MODEL_ROOTS=json.dumps([str(tmp_path / "models")]),
    )
    assert done.returncode == 0, done.stderr
    assert "2 steps" in done.stdout
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "adapter.work").exists()
