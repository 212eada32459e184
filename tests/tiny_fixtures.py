"""Fixtures of the evaluation and export tests: a tiny base model, and an adapter that knows `make_rows(8, 11)` by heart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_models import make_adapter, make_base, make_rows


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapter"), rows=make_rows(8, 11))
