"""Settings from the environment and from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_platform.errors import InvalidConfig
from llm_platform.settings import SECRETS_DIR, Settings


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(SECRETS_DIR, str(tmp_path))
    for name in ("LLM_PLATFORM_S3_SECRET_KEY", "LLM_PLATFORM_DATABASE_URL", "LLM_PLATFORM_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_secrets_are_read_from_files(secrets: Path) -> None:
    (secrets / "LLM_PLATFORM_S3_SECRET_KEY").write_text("from a file\n")
    (secrets / "llm_platform_database_url").write_text("postgresql://platform:word@db.example.test/platform")
    found = Settings()
    assert (found.s3_secret_key, found.redis_url) == ("from a file", None)
    assert found.resolved_database_url == "postgresql+psycopg2://platform:word@db.example.test/platform"
    assert "word" not in repr(found) and "from a file" not in repr(found)


def test_the_environment_wins_over_files(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "LLM_PLATFORM_S3_SECRET_KEY").write_text("from a file")
    monkeypatch.setenv("LLM_PLATFORM_S3_SECRET_KEY", "from the environment")
    assert Settings().s3_secret_key == "from the environment"


def test_a_folder_that_is_none(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRETS_DIR, str(secrets / "none"))
    with pytest.raises(InvalidConfig, match="LLM_PLATFORM_SECRETS_DIR names no folder"):
        Settings()
