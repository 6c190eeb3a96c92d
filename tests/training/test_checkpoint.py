"""A checkpoint is whole or passed over, and a run continues from the newest whole one."""

import json
from pathlib import Path

import pytest

from grpo_mmpc.training.checkpoint import Start, damage, find_start, newest_checkpoint, seal, steps_of
from grpo_mmpc.utils.distributed import ONE

ALARMS = {"alarms": {"image_to_text": {"bleu": [0.5]}}}


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    """Checkpoints after steps 2 and 10, whole."""
    for step in (2, 10):
        saved = tmp_path / ".saving"
        (saved / "global_step").mkdir(parents=True)
        (saved / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        (saved / "optimizer.pt").write_bytes(b"0123456789")
        (saved / "global_step/shard.pt").write_bytes(b"01")
        seal(saved, tmp_path / f"checkpoint-{step}", reward_state=ALARMS)
    return tmp_path


def test_a_whole_checkpoint_appears_under_its_name_alone(checkpoints):
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-10", "checkpoint-2"]
    assert damage(checkpoints / "checkpoint-10") == ""
    assert steps_of(checkpoints / "checkpoint-10") == 10


def test_a_run_goes_on_from_that_with_the_most_steps_and_what_rewards_remember(checkpoints):
    assert newest_checkpoint(checkpoints) == checkpoints / "checkpoint-10"
    start = find_start(checkpoints, ranks=ONE)
    assert (start.checkpoint, start.step, start.reward_state) == (checkpoints / "checkpoint-10", 10, ALARMS)


@pytest.mark.parametrize("file", ["trainer_state.json", "reward_state.json", "optimizer.pt", "global_step/shard.pt"])
@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.unlink(), "{} is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:1]), "{} has 1 bytes, expected "),
        (lambda path: path.write_bytes(b"!" * path.stat().st_size), "{} has changed since it was written"),
    ],
    ids=["missing", "truncated", "altered"],
)
def test_a_damaged_one_is_named_and_the_one_before_it_used(checkpoints, file, spoil, problem, caplog):
    spoil(checkpoints / "checkpoint-10" / file)
    start = find_start(checkpoints, ranks=ONE)
    assert (start.checkpoint, start.step) == (checkpoints / "checkpoint-2", 2)
    assert f"checkpoint-10 is damaged and passed over: {problem.format(file)}" in caplog.text


def test_one_without_checksums_was_cut_short(checkpoints):
    (checkpoints / "checkpoint-10/checksums.json").write_text('{"optim')
    assert steps_of(checkpoints / "checkpoint-10") is None
    (checkpoints / "checkpoint-10/checksums.json").unlink()
    assert damage(checkpoints / "checkpoint-10") == "checksums.json is missing"
    assert newest_checkpoint(checkpoints) == checkpoints / "checkpoint-2"


def test_a_damaged_one_makes_room_when_its_step_is_saved_again(checkpoints):
    (checkpoints / "checkpoint-10/optimizer.pt").unlink()
    saved = checkpoints / ".saving"
    saved.mkdir()
    (saved / "trainer_state.json").write_text('{"global_step": 10}')
    seal(saved, checkpoints / "checkpoint-10", reward_state=ALARMS)
    assert damage(checkpoints / "checkpoint-10") == ""


def test_without_a_whole_one_a_run_starts_from_the_first_step(tmp_path):
    (tmp_path / "checkpoint-4").mkdir()
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "nowhere") is None
    assert find_start(tmp_path, ranks=ONE) == Start()
