"""The platform's tables over versions: made, adopted, upgraded without loss, and refused when they are newer."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from llm_platform import migrations, schema, tables
from llm_platform.database import Database, now
from llm_platform.errors import Conflict

pytest_plugins = ["tests.databases"]


def differences(database: Database) -> list[object]:
    """What the tables of a database are not as `tables` says."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrations.VERSION_TABLE, "compare_type": True})
        return list(compare_metadata(context, tables.metadata))


def add_rows(database: Database) -> None:
    for number in range(3):
        database.accept(f"r{number}", dagster_run_id=f"d{number}", digest="a", pipeline={"nodes": [{"ä": number}]})
    database.start_node("r0", "n", "TrainingAgent", "x")
    row: dict[str, Any] = dict(
        filename="a.csv", format="csv", size_bytes=3 * 2**32, sha256="s", s3_path="s3://datasets/a", table_path="s3://datasets/t"
    )
    database.add_dataset(key=None, dataset_id="ds_1", profile={"rows": 1}, owner=None, **row)
    database.put_model(model_id="m", run_id="r0", model_name="m", base_model="b", metrics={"f1": 1}, exports={}, created_at=now())


def rows(database: Database, *without: str) -> dict[str, list[dict[str, object]]]:
    """Every row of every table; columns `without` left out."""
    found: dict[str, list[dict[str, object]]] = {}
    with database.read() as connection:
        for table in tables.metadata.sorted_tables:
            columns = [column for column in table.columns if column.name not in without]
            found[table.name] = [dict(row) for row in connection.execute(sa.select(*columns).order_by(*table.primary_key)).mappings()]
    return found


def test_new_tables_are_those_of_the_newest_migration(database: Database) -> None:
    assert migrations.versions()[-1] == migrations.HEAD
    assert differences(database) == []
    with database.read() as connection:
        assert schema.state(connection) == schema.State(migrations.HEAD, is_empty=False)


def test_tables_from_before_migrations_are_adopted_without_loss(url: str) -> None:
    old = Database(url)
    add_rows(old)
    before = rows(old, "owner", "retried_at", "aliases")
    with old.write() as connection:
        for statement in (
            f"DROP TABLE {migrations.VERSION_TABLE}",
            "DROP TABLE audit",
            "ALTER TABLE submissions DROP COLUMN owner",
            "ALTER TABLE submissions DROP COLUMN retried_at",
            "ALTER TABLE models DROP COLUMN aliases",
            "DROP INDEX ix_models_base_model",
        ):
            connection.exec_driver_sql(statement)
    assert differences(old) != []
    old.close()
    database = Database(url)
    assert differences(database) == []
    assert rows(database, "owner", "retried_at", "aliases") == before
    with database.read() as connection:
        assert schema.state(connection).is_current
    database.close()


def test_many_processes_that_upgrade_at_once_do_it_once(url: str) -> None:
    old = Database(url)
    add_rows(old)
    before = rows(old)
    with old.write() as connection:
        connection.exec_driver_sql(f"DROP TABLE {migrations.VERSION_TABLE}")
    old.close()
    opened = "import sys; from llm_platform.database import Database; Database(sys.argv[1]).close()"
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: subprocess.run([sys.executable, "-c", opened, url], capture_output=True, timeout=120), range(3)))
    assert [item.returncode for item in done] == [0, 0, 0], done
    database = Database(url)
    assert rows(database) == before
    with database.read() as connection:
        assert connection.exec_driver_sql(f"SELECT count(*) FROM {migrations.VERSION_TABLE}").scalar_one() == 1
    database.close()


def test_tables_of_a_newer_version_are_refused_and_left_alone(url: str) -> None:
    database = Database(url)
    add_rows(database)
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
    before = rows(database)
    with pytest.raises(Conflict, match=r"newer version of the platform.*9999.*restore the backup"):
        Database(url)
    assert rows(database) == before
    database.close()


def test_opening_a_database_that_is_up_to_date_does_not_import_alembic(url: str) -> None:
    Database(url).close()
    source = "import sys; from llm_platform.database import Database; Database(sys.argv[1]).close(); sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source, url], timeout=120).returncode == 0
