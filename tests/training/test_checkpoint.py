"""A checkpoint is whole or passed over, and a run continues from the newest whole one."""

import json
from pathlib import Path

import pytest

from grpo_mmpc.training.checkpoint import newest_checkpoint, read_reward_state, steps_of, write_reward_state


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    """Checkpoints after steps 2 and 10, whole."""
    for step in (2, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        write_reward_state(folder, {"transforms": {}, "alarms": {"image_to_text": {"bleu": [0.5]}}})
    return tmp_path


def test_a_whole_checkpoint_tells_its_step_and_what_rewards_remember(checkpoints):
    assert steps_of(checkpoints / "checkpoint-10") == 10
    assert read_reward_state(checkpoints / "checkpoint-10")["alarms"] == {"image_to_text": {"bleu": [0.5]}}


def test_the_newest_is_that_with_the_most_steps(checkpoints):
    assert newest_checkpoint(checkpoints) == checkpoints / "checkpoint-10"


@pytest.mark.parametrize("file", ["trainer_state.json", "reward_state.json"])
@pytest.mark.parametrize("content", [None, '{"global_st'])
def test_one_that_was_cut_short_is_passed_over(checkpoints, file, content):
    path = checkpoints / "checkpoint-10" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert steps_of(path.parent) is None
    assert newest_checkpoint(checkpoints) == checkpoints / "checkpoint-2"


def test_without_a_whole_one_there_is_none(tmp_path):
    (tmp_path / "checkpoint-4").mkdir()
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "nowhere") is None
