"""Alembic migrations of the platform's own tables; `llm_platform.schema` runs them.

A change of `llm_platform.tables` needs a file in versions/, whose number becomes `HEAD`. Migrations only go up: an older version of
the platform refuses the database, and the way back is the backup that was taken before the upgrade.
"""

from __future__ import annotations

from pathlib import Path

from llm_platform.errors import Conflict

HEAD = "0001"
"""The newest migration. Known here so that opening a database that is up to date does not import Alembic."""
VERSION_TABLE = "llm_platform_version"
"""A name of its own: Dagster and MLflow keep their versions as `alembic_version`, perhaps in the same database."""
FOLDER = Path(__file__).parent


def versions() -> list[str]:
    """Every migration that this version of the platform knows, oldest first."""
    return sorted(path.name.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*.py"))


def check_known(version: str | None) -> None:
    """Raises Conflict for tables of a newer version of the platform."""
    if version is not None and version not in versions():
        raise Conflict(
            f"The platform's database is of a newer version of the platform (its tables are at {version}, this one knows {HEAD}). "
            "Install that version again, or restore the backup from before its upgrade.",
            version=version,
        )
