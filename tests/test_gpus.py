"""Nodes share no GPU, wait for one, and hold none when they have ended, however they ended. The names are those of no real GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_platform import gpus
from llm_platform.errors import Cancelled, InvalidConfig
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings

HOLD = """
import sys
from pathlib import Path
from llm_platform import gpus
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings
with gpus.claimed(1, Settings(cache=Path(sys.argv[1])), ListReporter()) as mine:
    print(*mine, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv(gpus.VISIBLE, "GPU-a,GPU-b")
    monkeypatch.setattr(gpus, "LOOK_EVERY", 0.01)
    return Settings(home=tmp_path / "home", cache=tmp_path / "cache")


def hold(settings: Settings) -> subprocess.Popen[str]:
    """A process that holds one GPU until its standard input ends."""
    return subprocess.Popen([sys.executable, "-c", HOLD, str(settings.cache)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_each_node_has_a_gpu_of_its_own_and_cuda_sees_no_other(settings: Settings) -> None:
    with hold(settings) as other:
        theirs = told(other)
        with gpus.claimed(1, settings, ListReporter()) as mine:
            assert {theirs, *mine} == {"GPU-a", "GPU-b"}
            assert os.environ[gpus.VISIBLE] == mine[0]
        assert os.environ[gpus.VISIBLE] == "GPU-a,GPU-b"
        other.kill()


def test_waiting_ends_when_another_process_is_killed(settings: Settings) -> None:
    class Killing(ListReporter):
        def check_cancelled(self) -> None:
            other.kill()

    reporter = Killing()
    with hold(settings) as other:
        told(other)
        with gpus.claimed(2, settings, reporter) as mine:
            assert mine == ["GPU-a", "GPU-b"]
    assert [message for _, message, _ in reporter.lines] == ["Waiting for 2 of this machine's 2 GPUs: others are training on them"]


def test_waiting_can_be_cancelled_and_holds_nothing(settings: Settings) -> None:
    with gpus.claimed(1, settings, ListReporter()):
        os.environ[gpus.VISIBLE] = "GPU-a,GPU-b"  # as another process has it
        with pytest.raises(Cancelled), gpus.claimed(2, settings, ListReporter(cancel_after=1)):
            pass
        with gpus.claimed(1, settings, ListReporter()) as mine:
            assert mine == ["GPU-b"]


def test_sharing_is_a_setting(settings: Settings) -> None:
    shared = settings.model_copy(update={"nodes_per_gpu": 2})
    with gpus.claimed(2, shared, ListReporter()) as first:
        os.environ[gpus.VISIBLE] = "GPU-a,GPU-b"
        with gpus.claimed(2, shared, ListReporter()) as second:
            assert first == second


def test_machines_that_share_the_folder_have_a_first_gpu_each(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a training of two processes on two machines would wait for its own other half."""
    monkeypatch.setenv(gpus.VISIBLE, "0")
    with gpus.claimed(1, settings, ListReporter()):
        with pytest.raises(Cancelled), gpus.claimed(1, settings, ListReporter(cancel_after=1)):
            pass
        monkeypatch.setattr(gpus, "machine", lambda: "another")
        with gpus.claimed(1, settings, ListReporter()) as mine:
            assert mine == ["0"]


def test_more_than_there_are_is_refused(settings: Settings) -> None:
    with pytest.raises(InvalidConfig, match="3 devices are asked for, and this machine has 2"), gpus.claimed(3, settings, ListReporter()):
        pass


@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_machine_without_gpus_waits_for_none(visible: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VISIBLE, visible)
    with gpus.claimed(4, settings, ListReporter()) as mine:
        assert mine == []
