"""The trainer's log-probabilities are held to an unpadded forward pass before the first update."""

import threading
from pathlib import Path

import pytest

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.training import session as sessions
from grpo_mmpc.training import trainer as trainers
from grpo_mmpc.training import unpadded
from grpo_mmpc.training.session import TrainingSession

BOTH = pytest.mark.parametrize("architecture", ["qwen2_5_vl", "gemma3"])


@pytest.fixture
def start(make_config, monkeypatch):
    def start(architecture: str, **changes) -> TrainingSession:
        monkeypatch.setattr(sessions, "check_trainer_prompts", lambda *args, **options: None)
        config = make_config(architecture, **changes)
        Path(config.run_dir).mkdir(parents=True)
        return TrainingSession(config, RunData(config))

    return start


@BOTH
@pytest.mark.parametrize("task", TASKS)
def test_families_that_ship_agree_to_rounding_and_are_compared_once(start, architecture, task, monkeypatch):
    session = start(architecture, tasks=[task], adapter={"lora_dropout": 0.2}, trainer={"temperature": 0.8})
    monkeypatch.setattr(unpadded, "tolerance_of", lambda dtype: {"float32": 1e-5}[dtype])
    compared, check = [], trainers.check_against_unpadded
    monkeypatch.setattr(
        trainers, "check_against_unpadded", lambda *args, **options: compared.append(check(*args, **options))
    )
    session.train(before=None, after_save=None)
    assert compared == [None]


@BOTH
def test_a_family_whose_prompts_are_padded_as_a_part_of_them_is_refused(start, architecture, monkeypatch):
    """Gemma-4's processor pads by default: TRL takes its pads for tokens of the prompt."""
    session = start(architecture, tasks=["text_to_image"])
    tokenize = session.trainer._tokenize_prompts

    def with_pads(prompts):
        ids, images, fields = tokenize(prompts)
        pad = session.trainer.processing_class.tokenizer.pad_token_id
        kinds = {name: [[0] * 5 + list(row) for row in rows] for name, rows in fields.items()}
        return [[pad] * 5 + list(prompt) for prompt in ids], images, kinds

    monkeypatch.setattr(session.trainer, "_tokenize_prompts", with_pads)
    with pytest.raises(TrainingError, match=r"text_to_image:nano-\d+ differ by .* without padding"):
        session.train(before=None, after_save=None)
    assert session.step == 0
    for thread in threading.enumerate():  # no line of progress comes after the error
        if thread.name == "progress":
            thread.join(timeout=5)
            assert not thread.is_alive()


def test_a_tensor_that_does_not_reach_the_model_is_noticed(start, monkeypatch):
    """Without token types Gemma-3's image tokens attend in one direction only."""
    session = start("gemma3")
    compute = session.trainer.log_probabilities_of

    def without_token_types(output):
        return compute({name: value for name, value in output.items() if not name.endswith("token_type_ids")})

    monkeypatch.setattr(session.trainer, "log_probabilities_of", without_token_types)
    with pytest.raises(TrainingError, match="a tensor of Gemma3Processor that TRL does not pass on"):
        session.train(before=None, after_save=None)
