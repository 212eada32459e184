"""A tiny base model and splits, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_models import make_base, make_splits


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_splits(tmp_path_factory.mktemp("splits"))
