"""What a running job is asked for, and who watches it, on both databases."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from llm_platform import presence, signals
from llm_platform.database import Database, now
from llm_platform.signals import listening
from llm_platform.tables import presence as connections
from llm_platform.training.control import Asked

pytest_plugins = ["tests.databases"]

RUN = "r1"


def training(database: Database, run_id: str = RUN) -> None:
    """A job in which a training runs."""
    database.accept(run_id, dagster_run_id=f"d-{run_id}", digest="x", pipeline={"nodes": []})
    database.start_node(run_id, "training", "TrainingAgent", "digest")


def test_only_a_training_that_runs_can_be_asked(database: Database) -> None:
    database.accept(RUN, dagster_run_id="d1", digest="x", pipeline={"nodes": []})
    database.start_node(RUN, "data", "DatasetAgent", "digest")
    assert signals.ask_to_keep(database, RUN) == [] and not signals.ask_for_checkpoint(database, RUN)
    assert not signals.keep_asked(database, RUN)
    database.start_node(RUN, "training", "TrainingAgent", "digest")
    assert signals.ask_for_checkpoint(database, RUN)
    assert signals.ask_to_keep(database, RUN) == ["training"] and signals.keep_asked(database, RUN)
    database.end_node(RUN, "training", "completed")
    assert signals.ask_to_keep(database, RUN) == [] and not signals.ask_for_checkpoint(database, RUN)


def test_a_trainer_hears_what_was_asked_before_it_was_there(database: Database) -> None:
    training(database)
    signals.ask_for_checkpoint(database, RUN)
    with listening(database, RUN) as control:
        assert control.asked() is Asked.CHECKPOINT
    with listening(database, RUN) as control:
        assert control.asked() is Asked.CHECKPOINT, "it was not written"
        control.saved()
        assert control.asked() is Asked.NOTHING
    with listening(database, RUN) as control:
        assert control.asked() is Asked.NOTHING
    signals.ask_to_keep(database, RUN)
    with listening(database, RUN) as control:
        assert control.asked() is Asked.STOP


def test_a_trainer_hears_while_it_runs(database: Database) -> None:
    training(database)
    with listening(database, RUN) as control:
        assert control.asked() is Asked.NOTHING
        for _ in range(2):  # the second request is another one
            signals.ask_for_checkpoint(database, RUN)
            heard(control, Asked.CHECKPOINT)
            control.saved()
            assert control.asked() is Asked.NOTHING
        signals.ask_to_keep(database, RUN)
        heard(control, Asked.STOP)
    row = database.submission(RUN)
    assert row is not None and row["checkpoint_requested_at"] is None


def heard(control: signals.Listener, what: Asked) -> None:
    for _ in range(100):
        if control.asked() is what:
            return
        control._closed.wait(0.1)
    raise AssertionError(f"{what.name} was never heard")


def test_a_request_of_the_meantime_is_not_forgotten(database: Database) -> None:
    training(database)
    signals.ask_for_checkpoint(database, RUN)
    with listening(database, RUN) as control:
        assert control.asked() is Asked.CHECKPOINT
        signals.ask_for_checkpoint(database, RUN)  # while the checkpoint is being written
        control.saved()
    with listening(database, RUN) as control:
        assert control.asked() is Asked.CHECKPOINT


def test_a_new_run_of_a_job_was_asked_for_nothing(database: Database) -> None:
    training(database)
    signals.ask_to_keep(database, RUN)
    signals.ask_for_checkpoint(database, RUN)
    database.finish(RUN, f"d-{RUN}", "failed", started_at=None, ended_at=None)
    row = database.submission(RUN)
    assert row is not None and row["status"] == "cancelled", "a run that was asked to stop did not fail"
    assert database.retry(RUN, dagster_run_id="d2", instead_of=f"d-{RUN}")
    with listening(database, RUN) as control:
        assert control.asked() is Asked.NOTHING
    training(database)
    signals.ask_to_keep(database, RUN)
    database.adopt(RUN, dagster_run_id="d3", created_at=now())
    assert not signals.keep_asked(database, RUN)


def test_who_watches(database: Database) -> None:
    first = presence.join(database, RUN, "ada")
    presence.join(database, RUN, "bob")
    presence.join(database, RUN, "ada")
    presence.join(database, "other", "eve")
    assert [item.user for item in presence.present(database, RUN)] == ["ada", "bob"]
    presence.leave(database, first)
    assert [item.user for item in presence.present(database, RUN)] == ["bob", "ada"], "since then she is the later one"


def test_connections_of_a_killed_process_are_gone_after_a_while(database: Database) -> None:
    dead, alive = presence.join(database, RUN, "ada"), presence.join(database, RUN, None)
    with database.write() as connection:
        connection.execute(sa.update(connections).values(seen_at=now() - timedelta(seconds=presence.ALIVE_SECONDS + 1)))
    assert presence.present(database, RUN) == []
    presence.keep_alive(database, [alive])
    assert [item.user for item in presence.present(database, RUN)] == [None]
    presence.join(database, RUN, "bob")
    with database.read() as connection:
        assert dead not in connection.execute(sa.select(connections.c.connection_id)).scalars().all()
