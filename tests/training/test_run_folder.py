"""A run folder: how a run stops, goes on and is finished, and who may write into it."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_mmpc.errors import CatalogueError, RewardError, TrainingError
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.training import checkpoint
from tests.training.nano_runs import QUIET, SAVING, assert_same_result, mix, rollouts, session_for


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(make_config, tmp_path, uninterrupted):
    resumed = uninterrupted.model_copy(update={"run_dir": str(tmp_path / "resumed")})
    shutil.copytree(uninterrupted.run_dir, resumed.run_dir)
    shutil.rmtree(Path(resumed.run_dir) / "checkpoints/checkpoint-4")
    (Path(resumed.run_dir) / "config.yaml").write_text(resumed.to_yaml())
    assert run_training(resumed) == 0
    assert_same_result(uninterrupted, resumed)
    steps = [json.loads(line)["step"] for line in (Path(resumed.run_dir) / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_evaluating_before_and_between_steps_does_not_change_training(make_config, tmp_path, uninterrupted):
    silent = uninterrupted.model_copy(
        update={
            "run_dir": str(tmp_path / "silent"),
            "evaluation": uninterrupted.evaluation.model_copy(update=QUIET),
        }
    )
    assert run_training(silent) == 0
    assert_same_result(uninterrupted, silent)
    found = {path.name for path in (Path(uninterrupted.run_dir) / "evaluations").iterdir()}
    assert found == {"base", "checkpoint-2", "checkpoint-4", "final"}


def test_a_run_resumed_from_an_earlier_checkpoint_records_its_own_rollouts_only(make_config, tmp_path):
    """One rollout serves two steps: 1 and 3 of the first run, 2 and 4 of one resumed at step 1."""
    config = make_config(
        rewards=mix(digest=1.0),
        trainer={**SAVING, "num_iterations": 2, "save_steps": 1, "max_steps": 4},
        evaluation=QUIET,
    )
    assert run_training(config) == 0
    assert sorted({row["step"] for row in rollouts(config)}) == [1, 3]
    for step in (2, 3, 4):
        shutil.rmtree(Path(config.run_dir) / f"checkpoints/checkpoint-{step}")
    assert run_training(config) == 0
    assert sorted({row["step"] for row in rollouts(config)}) == [1, 2, 4]


@pytest.mark.parametrize(("done", "warned"), [(1, True), (2, False)])
def test_a_resumption_between_two_rollouts_says_that_it_samples_anew(make_config, caplog, done, warned):
    config = make_config(trainer={**SAVING, "num_iterations": 2, "save_steps": 1, "max_steps": done}, evaluation=QUIET)
    session = session_for(config)
    session.train(before=None, after_save=None)
    longer = config.model_copy(update={"trainer": {**config.trainer, "max_steps": 3}})
    with caplog.at_level("WARNING"):
        session_for(longer).train(before=None, after_save=None)
    assert ("lies between two rollouts" in caplog.text) == warned


def test_ctrl_c_saves_after_the_step_and_resume_finishes_the_same_run(
    make_config, tmp_path, uninterrupted, monkeypatch, capsys
):
    from grpo_mmpc.training.recorder import RolloutRecorder

    config = uninterrupted.model_copy(update={"run_dir": str(tmp_path / "stopped")})
    write = RolloutRecorder.write

    def interrupt_in_third_step(self, **keywords):
        if keywords["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return write(self, **keywords)

    monkeypatch.setattr(RolloutRecorder, "write", interrupt_in_third_step)
    assert run_training(config) == 130
    assert "stopped at step 3 of 4; continue with:" in capsys.readouterr().out
    assert (Path(config.run_dir) / "checkpoints/checkpoint-3/adapter_model.safetensors").is_file()
    monkeypatch.undo()
    assert run_training(config) == 0
    assert_same_result(uninterrupted, config)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 130)])
def test_a_signal_before_anything_is_done_ends_with_its_status(number, status, monkeypatch, capsys):
    def read(words):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr("grpo_mmpc.pipelines.train.load_recipe", read)
    assert run_training(["recipe.yaml"]) == status
    assert "continue with:" in capsys.readouterr().out


def test_a_run_folder_is_never_silently_reused(make_config, capsys):
    config = make_config(rewards=mix(digest=1.0), trainer={"max_steps": 1}, evaluation=QUIET)
    assert run_training(config) == 0
    before = {path: path.stat().st_mtime_ns for path in Path(config.run_dir).rglob("*") if path.is_file()}
    assert run_training(config) == 0
    assert "all is done: 1 steps" in capsys.readouterr().out
    lock = Path(config.run_dir) / ".train.lock"
    assert {path: path.stat().st_mtime_ns for path in before if path != lock} | {lock: before[lock]} == before
    elsewhere = config.rollout.model_copy(update={"servers": ["http://gpu07:8000"], "server_timeout": 60.0})
    assert run_training(config.model_copy(update={"rollout": elsewhere})) == 0  # requeued on other nodes
    changed = config.model_copy(update={"trainer": {**config.trainer, "max_steps": 60}})
    with pytest.raises(TrainingError, match=r"of another recipe: trainer.max_steps was 1, is now 60; continue"):
        run_training(changed)
    assert run_training(changed.model_copy(update={"trainer": config.trainer, "seed": 5}), overwrite=True) == 0


def test_a_start_that_failed_is_not_in_the_way_of_the_corrected_command(make_config):
    broken = make_config(rewards=mix(failing=1.0), trainer={"max_steps": 1}, evaluation=QUIET)
    with pytest.raises(RewardError):
        run_training(broken)
    assert run_training(make_config(rewards=mix(digest=1.0), trainer={"max_steps": 1}, evaluation=QUIET)) == 0


def test_a_second_process_is_told_who_holds_the_folder(make_config):
    from grpo_mmpc.training.claim import claimed

    config = make_config()
    with claimed(config, overwrite=False), pytest.raises(TrainingError, match=f"in use by .*process {os.getpid()} on "):
        run_training(config)


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_next_start_says_that_the_one_before_ended_without_a_word(make_config, end, caplog):
    from grpo_mmpc.training.claim import claimed

    config = make_config()
    program = f"""
import os, signal, sys
from grpo_mmpc.config import RunConfig
from grpo_mmpc.training.claim import claimed
with claimed(RunConfig.model_validate_json(sys.stdin.read()), overwrite=False):
    print(os.getpid(), flush=True)
    {end}
"""
    child = subprocess.run(
        [sys.executable, "-c", program], input=config.model_dump_json(), capture_output=True, text=True, check=False
    )
    with claimed(config, overwrite=False):
        pass
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"(process {int(child.stdout)} on {platform.node()}) ended without a word" in warning
    assert "isolated: true" in warning
    caplog.clear()
    with claimed(config, overwrite=False):
        pass
    assert not caplog.records, "the one before ended in order"


def test_what_is_missing_of_a_trained_run_is_made_up_for(make_config, uninterrupted, tmp_path, capsys):
    """Evaluations of an earlier checkpoint and of the last one, comparison, report, a torn line."""
    config = uninterrupted
    run = Path(config.run_dir)
    expected = {path: path.read_bytes() for path in run.glob("evaluations/*/*/samples.parquet")}
    adapters = {path: path.read_bytes() for path in run.glob("checkpoints/*/adapter_model.safetensors")}
    for name in ("checkpoint-2", "checkpoint-4", "final"):
        shutil.rmtree(run / "evaluations" / name)
    (run / "comparison.json").unlink()
    (run / ".report.html.0.partial").write_text("left over")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert run_training(config) == 0
    assert {path: path.read_bytes() for path in run.glob("evaluations/*/*/samples.parquet")} == expected
    assert {path: path.read_bytes() for path in run.glob("checkpoints/*/adapter_model.safetensors")} == adapters
    assert (run / "comparison.json").is_file()
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    assert list(run.rglob("*.partial")) == []
    (run / "comparison.json").unlink()
    capsys.readouterr()
    assert run_training(config) == 0  # without loading a model
    assert "comparison: " in (said := capsys.readouterr().out) and "loading" not in said


def test_without_save_strategy_the_last_adapter_stays(make_config):
    config = make_config(rewards=mix(digest=1.0), trainer={"max_steps": 2, "save_strategy": "no"}, evaluation=QUIET)
    assert run_training(config) == 0
    assert [path.name for path in (Path(config.run_dir) / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_disk_that_is_full_leaves_no_half_of_a_checkpoint(make_config, monkeypatch):
    import grpo_mmpc.training.run_trainer as run_trainer

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    config = make_config(rewards=mix(digest=1.0), trainer={"max_steps": 1}, evaluation=QUIET)
    monkeypatch.setattr(run_trainer, "seal", full)
    with pytest.raises(TrainingError, match=r"checkpoint-1 could not be saved in .*No space left on device .* MB free"):
        run_training(config)
    assert list((Path(config.run_dir) / "checkpoints").iterdir()) == []
    monkeypatch.undo()
    assert run_training(config) == 0


def slow_seal(monkeypatch, *, wait) -> None:
    """Let a checkpoint get its name no earlier than ``wait`` returns."""
    import grpo_mmpc.training.run_trainer as run_trainer

    def seal(*arguments, **keywords):
        wait()
        checkpoint.seal(*arguments, **keywords)

    monkeypatch.setattr(run_trainer, "seal", seal)


def test_training_goes_on_while_a_checkpoint_gets_its_name(make_config, monkeypatch):
    config = make_config(rewards=mix(digest=1.0), trainer={**SAVING, "max_steps": 3}, evaluation=QUIET)
    third = Path(config.run_dir) / "rollouts/step-000003.parquet"

    def third_step_began() -> None:
        deadline = time.monotonic() + 60
        while not third.exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    slow_seal(monkeypatch, wait=third_step_began)
    began = time.monotonic()
    assert run_training(config) == 0
    assert time.monotonic() - began < 60  # the step that a checkpoint was waiting for was not waiting for it
    saved = sorted((Path(config.run_dir) / "checkpoints").iterdir())
    assert [(path.name, checkpoint.damage(path)) for path in saved] == [("checkpoint-2", ""), ("checkpoint-3", "")]


def test_an_evaluation_begins_when_its_checkpoint_is_whole(make_config, monkeypatch):
    config = make_config(rewards=mix(digest=1.0), trainer=SAVING)
    slow_seal(monkeypatch, wait=lambda: time.sleep(0.3))
    session = session_for(config)
    damages = {}

    def look(name: str) -> None:
        damages[name] = checkpoint.damage(Path(config.run_dir) / "checkpoints" / name)

    session.train(before=None, after_save=look)
    assert damages == {"checkpoint-2": "", "checkpoint-4": ""}


def test_a_run_that_was_killed_at_its_first_file_or_in_overwriting_is_not_in_its_own_way(
    make_config, tmp_path, monkeypatch
):
    from grpo_mmpc.training.claim import check_folder, take_over

    config, run = make_config(), tmp_path / "run"
    run.mkdir()
    (run / ".config.yaml.1.partial").touch()
    check_folder(config, overwrite=False)
    take_over(config, overwrite=False)
    (run / "checkpoints").mkdir()
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        take_over(config, overwrite=True)
    check_folder(config, overwrite=True)


def test_overwrite_never_deletes_a_folder_that_holds_no_run(make_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(TrainingError, match="is not empty and holds no run"):
        run_training(make_config(), overwrite=True)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


def test_overwrite_never_deletes_a_folder_with_somebody_elses_config(make_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("a: 1")
    for overwrite in (True, False):
        with pytest.raises(TrainingError, match="is not that of a run"):
            run_training(make_config(), overwrite=overwrite)
    assert (tmp_path / "run" / "config.yaml").read_text() == "a: 1"


def test_a_start_that_fails_costs_no_earlier_run_and_does_not_occupy_the_folder(make_config, tmp_path):
    nowhere = make_config(data={"catalogue": str(tmp_path / "nowhere")})
    with pytest.raises(CatalogueError):
        run_training(nowhere)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(make_config().to_yaml())
    with pytest.raises(CatalogueError):
        run_training(nowhere, overwrite=True)
    assert (tmp_path / "run" / "checkpoints").is_dir()
