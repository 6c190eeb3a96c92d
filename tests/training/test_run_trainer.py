"""Checkpoints of a trainer whatever it learns from; the trainer below it writes an empty folder."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.training import run_trainer
from grpo_mmpc.training.checkpoint import checkpoint_folder
from grpo_mmpc.training.run_trainer import RunTrainer
from grpo_mmpc.utils.distributed import ONE


class Writes:
    state: Any

    def save_checkpoint(self, below: str) -> None:
        checkpoint_folder(Path(below), self.state.global_step).mkdir(parents=True)


class Trainer(RunTrainer, Writes):
    _ranks = ONE

    def __init__(self) -> None:
        self.accelerator = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
        self.args = SimpleNamespace(save_total_limit=1)
        self.state = SimpleNamespace(global_step=0, max_steps=4)
        self.control = SimpleNamespace(should_training_stop=False)

    def save_at(self, step: int, checkpoints: Path, *, stop: bool = False) -> None:
        self.state.global_step, self.control.should_training_stop = step, stop
        self.save_checkpoint(str(checkpoints))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_that_a_signal_stops_deletes_no_checkpoint_and_the_next_save_does(tmp_path: Path) -> None:
    trainer = Trainer()
    trainer.save_at(1, tmp_path)
    trainer.save_at(2, tmp_path, stop=True)
    trainer.finish_saving()
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    trainer.save_at(4, tmp_path, stop=True)  # the last step, after which every run stops
    trainer.close()
    assert names(tmp_path) == ["checkpoint-4"]


def test_a_checkpoint_that_a_failing_run_could_not_save_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closing = threading.Event()

    def full(*arguments: object, **keywords: object) -> None:
        closing.wait(10)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_trainer, "seal", full)
    trainer = Trainer()
    trainer.save_at(1, tmp_path)
    closing.set()
    trainer.close()  # as a run that failed for another reason
    [record] = caplog.records
    assert record.message.startswith(f"checkpoint-1 could not be saved in {tmp_path}")


def test_a_checkpoint_that_could_not_be_saved_stops_the_run_at_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_trainer, "seal", full)
    trainer = Trainer()
    trainer.save_at(1, tmp_path)
    with pytest.raises(TrainingError, match="checkpoint-1 could not be saved"):
        trainer.save_at(2, tmp_path)


def test_a_full_disk_that_torch_calls_by_another_name_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(trainer: Writes, below: str) -> None:
        checkpoint_folder(Path(below), trainer.state.global_step).mkdir(parents=True)
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(Writes, "save_checkpoint", full)
    with pytest.raises(TrainingError, match=r"checkpoint-1 could not be saved in .*iostream error \(.* MB free there"):
        Trainer().save_at(1, tmp_path)
    assert names(tmp_path) == []
