"""``grpo-mmpc ablate`` on fake runs: exit status, and what a page may be made of."""

import shlex

import pytest

from grpo_mmpc.ablation.attempt import Outcome
from grpo_mmpc.cli import ablate, main


@pytest.fixture
def command(planned, load_without_trl, tmp_path, monkeypatch):
    """A function that runs ``ablate`` with fake runs, the untrained model already evaluated."""
    monkeypatch.setenv("FAKE_STEP_S", "0")
    monkeypatch.setattr(ablate, "_load", load_without_trl)
    folder, _, jobs = planned(seeds=[0])

    def run(*options: str) -> int:
        return main(["ablate", str(tmp_path / "fake.yaml"), "--out", str(folder), *options])

    run.folder, run.jobs = folder, jobs
    return run


def outcome(job, **how):
    return Outcome(**{"name": job.name, "finished": False, "stopped": False, "status": 1, "tail": ""} | how)


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ([{"stopped": True}, {"stopped": True}], 130),
        ([{"stopped": True}, {}], 130),  # one had failed before
        ([], 130),  # before any had begun
        ([{}, {}], 1),
    ],
)
def test_the_status_is_130_whenever_it_was_stopped(command, monkeypatch, ends, status):
    def ended(jobs, **_):
        return {job.name: outcome(job, **how) for job, how in zip(jobs, ends, strict=False)}

    monkeypatch.setattr("grpo_mmpc.ablation.runner.run_local", ended)
    assert command() == status


def test_a_page_is_not_made_of_runs_of_another_recipe(command, capsys):
    assert command("--report-only") == 1  # nothing has run
    assert command() == 0
    assert f"grpo-mmpc report {shlex.quote(str(command.folder / 'bleu/seed-0'))}" in capsys.readouterr().out
    before = (command.folder / "ablation.html").read_bytes()
    assert command("--report-only", "trainer.learning_rate=0.1") == 2
    assert "bleu/seed-0: trainer.learning_rate was 0.001, is now 0.1" in capsys.readouterr().err
    assert (command.folder / "ablation.html").read_bytes() == before
    assert command("--report-only") == 0


def test_what_a_killed_command_was_writing_is_removed_once_all_runs_are_done(command):
    assert command() == 0
    left = command.folder / "bleu" / ".seed-0.yaml.0.partial"
    left.touch()
    assert command() == 0
    assert not left.exists()


def test_a_run_that_starts_after_another_waits_for_its_end(planned, load_without_trl, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_STEP_S", "0")
    monkeypatch.setattr(ablate, "_load", load_without_trl)
    folder, _, _ = planned(seeds=[0], axes={"mix": {"more": {"after": "bleu"}, "bleu": {}}})
    words = ["ablate", str(tmp_path / "fake.yaml"), "--out", str(folder), "--run-anyway", "--retries", "0"]
    (folder / "bleu" / "fail").touch()
    assert main(words) == 1  # the one before it has failed, so that it does not start
    assert [line.split()[0] for line in (folder / "starts.log").read_text().splitlines()] == ["bleu/seed-0"]
    (folder / "bleu" / "fail").unlink()
    assert main(words) == 0
    assert [line.split()[0] for line in (folder / "starts.log").read_text().splitlines()][1:] == [
        "bleu/seed-0",
        "more/seed-0",
    ]
