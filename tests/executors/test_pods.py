"""What Dagster's executor of pods was taught: to try again what died without a word, and to end a step with its run."""

import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

pytest.importorskip("dagster_k8s", reason="the extra k8s is not installed")

from dagster_project import executors, pods
from tests.executors.step_processes import everything


@pytest.mark.parametrize(("deaths", "retries", "attempts"), [(1, 1, 2), (1, 0, 1)])
def test_a_step_that_dies_is_started_again_as_often_as_the_job_may(
    deaths: int, retries: int, attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods, "LOOK_SECONDS", 0)
    monkeypatch.setattr(executors, "FIRST_RETRY_SECONDS", 0.0)
    (tmp_path / "deaths").write_text(str(deaths))
    with dg.instance_for_test() as instance:
        config = {"ops": {"work": {"config": {"folder": str(tmp_path), "max_retries": retries}}}}
        result = dg.execute_job(dg.reconstructable(everything), instance, run_config=config)
    assert result.success == (deaths <= retries)
    assert len(list(tmp_path.glob("attempt-*"))) == attempts


@pytest.mark.parametrize("ends", [True, False])
def test_a_step_ends_with_its_run(ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "LOOK_SECONDS", 0.01)
    reached: list[str] = []

    @dg.op
    def endless(context: dg.OpExecutionContext) -> None:
        with pods.ends_with_run(context):
            if ends:
                context.instance.report_run_failed(context.run)
            time.sleep(60 if ends else 0.1)
            reached.append("its end")

    @dg.job
    def only() -> None:
        endless()

    if ends:
        with pytest.raises(DagsterExecutionInterruptedError):
            only.execute_in_process()
        assert reached == []
    else:
        assert only.execute_in_process().success and reached == ["its end"]
