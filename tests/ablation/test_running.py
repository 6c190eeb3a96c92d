"""Runs: continued run by run, retried, refused when they changed, and never left behind."""

import dataclasses
import errno
import fcntl
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from grpo_mmpc.ablation import runner
from grpo_mmpc.ablation.attempt import Attempt
from grpo_mmpc.ablation.folder import check_recipes, only_one, share_base, write_recipes
from grpo_mmpc.ablation.jobs import State, command_of, jobs_of, state_of
from grpo_mmpc.ablation.results import collect, prompts_by_step
from grpo_mmpc.ablation.runner import run_local
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.utils.console import Progress
from tests.ablation.fake_train import write_checkpoint

HERE = Path(__file__).parent


def starts(folder: Path) -> list[list[str]]:
    path = folder / "starts.log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def num_checkpoints(folder: Path) -> int:
    return len(list(folder.glob("*/seed-*/checkpoints/checkpoint-*/checksums.json")))


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_for(condition, *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def drive(jobs, folder: Path, *, step_s: float) -> subprocess.Popen:
    (folder / "jobs.pickle").write_bytes(pickle.dumps(jobs))
    command = [sys.executable, str(HERE / "drive.py"), str(folder / "jobs.pickle"), str(folder)]
    return subprocess.Popen(command, env=os.environ | {"FAKE_STEP_S": str(step_s)}, text=True, stdout=subprocess.PIPE)


def run_all(jobs, *, retries: int = 0):
    return run_local(jobs, given=[{}, {}], retries=retries)


@pytest.mark.slow
def test_an_ablation_killed_twice_leaves_no_process_and_ends_with_every_run_finished(planned):
    folder, _, jobs = planned(overrides={"trainer.max_steps": 5})
    for kill in (1, 2):
        before, saved = len(starts(folder)), num_checkpoints(folder)
        parent = drive(jobs, folder, step_s=0.3)
        wait_for(lambda saved=saved: num_checkpoints(folder) > saved)  # in the middle of the steps
        pids = [int(pid) for _, pid, *_ in starts(folder)[before:]]
        assert any(map(alive, pids)), f"kill {kill} came too late to test anything"
        parent.kill()
        parent.wait()
        wait_for(lambda pids=pids: not any(map(alive, pids)), seconds=5)
    assert any(state_of(job) != State.FINISHED for job in jobs)
    last = drive(jobs, folder, step_s=0.0)
    assert last.wait(timeout=60) == 0
    assert [state_of(job) for job in jobs] == [State.FINISHED] * len(jobs)
    # Some run went on from its checkpoint; none trained a step twice, and none that had finished
    # was started again.
    assert any("continues" in line for line in starts(folder))
    for job in jobs[1:]:
        steps = [json.loads(line)["step"] for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
        assert sorted(set(steps)) == [1, 2, 3, 4, 5]
    again = len(starts(folder))
    assert drive(jobs, folder, step_s=0.0).wait(timeout=60) == 0
    assert len(starts(folder)) == again


def test_interrupted_runs_are_asked_to_stop_and_can_be_continued(planned):
    folder, _, jobs = planned(overrides={"trainer.max_steps": 50})
    parent = drive(jobs, folder, step_s=0.2)
    wait_for(lambda: len(starts(folder)) == 2)
    parent.send_signal(signal.SIGTERM)
    said, _ = parent.communicate(timeout=30)
    assert parent.returncode in (0, 130)
    assert "stopped bleu/seed-0; it can be continued" in said
    assert not any(alive(int(pid)) for _, pid, *_ in starts(folder))
    assert len(starts(folder)) == 2  # nothing new was begun


def test_a_run_that_fails_is_retried_then_recorded_with_its_last_lines_and_others_go_on(planned, capsys):
    folder, _, jobs = planned()
    (folder / "token_f1").mkdir(exist_ok=True)
    (folder / "token_f1" / "fail").touch()
    outcomes = run_all(jobs[1:], retries=1)
    assert {name: outcome.finished for name, outcome in outcomes.items()} == {
        "bleu/seed-0": True,
        "bleu/seed-1": True,
        "token_f1/seed-0": False,
        "token_f1/seed-1": False,
    }
    assert [name for name, *_ in starts(folder)].count("token_f1/seed-0") == 2
    assert "the fake run has to fail" in outcomes["token_f1/seed-0"].tail
    assert "token_f1/seed-0 FAILED (status 1)" in capsys.readouterr().out


def test_while_runs_go_on_their_steps_are_shown(planned, monkeypatch, capsys):
    monkeypatch.setattr(runner, "Progress", partial(Progress, every_seconds=0.2))
    monkeypatch.setenv("FAKE_STEP_S", "0.5")
    _, _, jobs = planned(overrides={"trainer.max_steps": 5})
    run_all(jobs[1:3])
    shown = (
        r"^runs: [01]/2, (?:[^\n]*, )?2 running \(bleu/seed-0 [1-4]/5, token_f1/seed-0 [0-5]/5\), 0 failed, 0 waiting"
    )
    assert re.search(shown, capsys.readouterr().err, re.M)


def test_a_changed_recipe_is_refused_by_name_until_overwrite_and_only_changed_runs_go(planned):
    folder, runs, jobs = planned()
    run_all(jobs[1:])
    trainer = runs[0].config.trainer | {"learning_rate": 0.1}
    changed = [dataclasses.replace(runs[0], config=runs[0].config.model_copy(update={"trainer": trainer})), *runs[1:]]
    changed = jobs_of(changed, folder=folder, launcher=jobs[1].launcher)
    with pytest.raises(ConfigError) as error:
        write_recipes(changed, overwrite=False)
    assert "bleu/seed-0: trainer.learning_rate was 0.001, is now 0.1" in str(error.value)
    assert "bleu/seed-1" not in str(error.value)
    with pytest.raises(ConfigError, match=r"bleu/seed-0: trainer.learning_rate was 0.001, is now 0.1"):
        check_recipes(changed)
    check_recipes(jobs)
    write_recipes(changed, overwrite=True)
    assert [state_of(job) for job in jobs[1:]] == [State.WAITING] + [State.FINISHED] * 3


def test_a_recipe_written_before_an_option_existed_is_the_same_recipe(planned):
    _, _, jobs = planned()
    run_all(jobs[1:])
    recipe = yaml.safe_load(jobs[1].config.read_text())
    del recipe["rollout"]["ahead"], recipe["evaluation"]["where"]
    jobs[1].config.write_text(yaml.safe_dump(recipe))
    check_recipes(jobs)
    write_recipes(jobs, overwrite=False)
    assert state_of(jobs[1]) == State.FINISHED


def test_one_ablate_at_a_time_in_a_folder(tmp_path):
    in_use = pytest.raises(ConfigError, match=rf"in use by another ablate \(process {os.getpid()} on")
    with only_one(tmp_path), in_use, only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass  # free again


def test_a_run_is_started_continued_and_finished_by_one_command(planned):
    _, _, jobs = planned()
    job, train = jobs[1], ["-m", "grpo_mmpc", "train", str(jobs[1].config)]
    states = [(state_of(job), command_of(job)[-4:])]
    for step in (1, 2):
        write_checkpoint(job.folder / "checkpoints" / f"checkpoint-{step}")
        states.append((state_of(job), command_of(job)[-4:]))
    assert states == [(State.WAITING, train), (State.PARTLY_TRAINED, train), (State.TRAINED, train)]


def test_nothing_is_decided_or_deleted_while_another_attempt_lives(planned):
    _, _, jobs = planned()
    job = jobs[1]
    half = job.folder / "checkpoints" / "checkpoint-1"
    half.mkdir(parents=True)
    with job.lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a process on a machine that was thought lost
        waiting = Attempt(job, environment={})
        assert waiting.poll() is None
        assert half.exists()
        waiting.stop()
        assert waiting.poll().stopped
        waiting = Attempt(job, environment={"FAKE_STEP_S": "0"})
    outcomes = []
    wait_for(lambda: outcomes.append(waiting.poll()) or outcomes[-1])
    assert outcomes[-1].finished


def test_a_disk_that_cannot_be_read_deletes_nothing(planned, monkeypatch):
    _, _, jobs = planned()
    job = jobs[1]
    checkpoint = job.folder / "checkpoints" / "checkpoint-1"
    write_checkpoint(checkpoint)

    def stale(path, *_, **__):
        raise OSError(errno.ESTALE, "stale file handle", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", stale)
        with pytest.raises(OSError, match="stale"):
            command_of(job)
    assert state_of(job) == State.PARTLY_TRAINED


@pytest.mark.parametrize("samples", [None, b"PAR1 cut short"])
def test_half_an_evaluation_is_none_and_is_made_again(planned, samples):
    _, runs, jobs = planned()
    run_all(jobs[1:2])
    path = jobs[1].final / "samples.parquet"
    path.unlink()
    if samples is not None:
        path.write_bytes(samples)
    assert state_of(jobs[1]) == State.TRAINED
    assert next(job.name for job in collect(runs, jobs).missing) == jobs[1].name
    command_of(jobs[1])
    assert not (jobs[1].final / "summary.json").exists()


def test_an_evaluation_that_cannot_be_read_is_listed_and_does_not_end_the_page(planned):
    _, runs, jobs = planned()
    run_all(jobs[1:3])
    pq.write_table(pa.table({"nothing": [1]}), jobs[1].final / "samples.parquet")
    (jobs[1].final / "summary.json").write_text("[]")
    results = collect(runs, jobs)
    assert [run.mix for run in results.runs] == ["token_f1"]
    assert ("bleu/seed-0", "unreadable") in [(job.name, job.state) for job in results.missing]


def test_recipes_are_written_once_and_another_way_to_name_the_folder_is_no_change(planned, monkeypatch):
    folder, runs, jobs = planned()
    run_all(jobs[1:2])
    before = [job.config.stat().st_ino for job in jobs]
    write_recipes(jobs, overwrite=False)
    assert [job.config.stat().st_ino for job in jobs] == before
    monkeypatch.chdir(folder)
    relative = [
        dataclasses.replace(run, config=run.config.model_copy(update={"run_dir": f"{run.mix}/seed-{run.seed}"}))
        for run in runs
    ]
    again = jobs_of(relative, folder=Path(), launcher=jobs[1].launcher)
    assert [job.folder for job in again] == [job.folder for job in jobs]
    write_recipes(again, overwrite=False)
    assert state_of(again[1]) == State.FINISHED
    assert not list(folder.rglob("*.part"))


def test_every_finished_run_receives_the_untrained_evaluation_once(planned):
    _, _, jobs = planned()
    run_all(jobs[1:2])
    share_base(jobs)
    share_base(jobs)
    assert (jobs[1].folder / "evaluations/base/cqbench/summary.json").is_file()
    assert not jobs[2].folder.exists()


def test_prompts_of_a_run_are_read_step_by_step(planned):
    _, _, jobs = planned()
    run_all(jobs[1:3])
    assert prompts_by_step(jobs[1].folder) == {
        "step-000001": ["0-1-0", "0-1-1", "0-1-2"],
        "step-000002": ["0-2-0", "0-2-1", "0-2-2"],
    }
