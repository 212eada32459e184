"""A platform without services, on which nodes run one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_platform.agents import Platform
from llm_platform.settings import Settings
from tests.tiny_models import COLOURS, make_base


@pytest.fixture(scope="module")
def bare_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """With a tiny base model in its one model root, and at s3://datasets/rows.csv rows whose answer is the prompt's first word."""
    home = tmp_path_factory.mktemp("platform")
    make_base(home / "models" / "base")
    rows = "".join(f"{one} {two} w{number},{one}\n" for number, one in enumerate(COLOURS) for two in COLOURS[:5])
    (home / "rows.csv").write_text(f"instruction,output\n{rows}")
    url = f"sqlite:///{home / 'mlflow.db'}"
    made = Platform.from_settings(Settings(home=home / "home", model_roots=[home / "models"], mlflow_url=url, threads=1))
    made.storage.put_file(home / "rows.csv", "s3://datasets/rows.csv")
    yield made
    made.close()


@pytest.fixture(scope="module")
def base(bare_platform: Platform) -> Path:
    return bare_platform.settings.model_roots[0] / "base"
