"""The Ray engine on a local cluster of two CPUs: as on the local engine."""

import sys
from pathlib import Path

import pytest

from grpo_mmpc.ablation.jobs import State, state_of
from grpo_mmpc.ablation.runner import run_ray
from grpo_mmpc.errors import ConfigError

ROOT = Path(__file__).parents[2]


def on_ray(jobs, **options):
    options = {"address": None, "parallel": 2, "gpus_per_run": 0, "cpus_per_run": 1, "retries": 1} | options
    return run_ray(jobs, **options)


@pytest.fixture
def importable_in_workers(monkeypatch):
    monkeypatch.setenv("FAKE_STEP_S", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.slow
def test_jobs_run_as_tasks_and_one_that_fails_is_retried_while_others_go_on(planned, importable_in_workers):
    pytest.importorskip("ray")
    folder, _, jobs = planned()
    (folder / "token_f1").mkdir(exist_ok=True)
    (folder / "token_f1" / "fail").touch()
    outcomes = on_ray(jobs[1:])
    assert {name: outcome.finished for name, outcome in outcomes.items()} == {
        "bleu/seed-0": True,
        "bleu/seed-1": True,
        "token_f1/seed-0": False,
        "token_f1/seed-1": False,
    }
    assert "the fake run has to fail" in outcomes["token_f1/seed-0"].tail
    starts = [line.split()[0] for line in (folder / "starts.log").read_text().splitlines()]
    assert starts.count("token_f1/seed-0") == 2
    assert starts.count("bleu/seed-0") == 1
    assert state_of(jobs[1]) == State.FINISHED


@pytest.mark.slow
def test_a_run_that_no_cluster_could_hold_is_refused(planned, importable_in_workers):
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="one run needs 1000 CPUs, the whole Ray cluster has"):
        on_ray(planned()[2][1:], cpus_per_run=1000)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install -e '.\[ray\]'"):
        on_ray([])
