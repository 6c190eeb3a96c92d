"""Our trainer against TRL's own: our additions change no bit of an update."""

from pathlib import Path

import pytest
import torch

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.models.policy import load_policy
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.tasks import IMAGE_TO_TEXT
from grpo_mmpc.training.arguments import grpo_arguments, lora_arguments
from grpo_mmpc.training.session import TrainingSession
from grpo_mmpc.training.trl_seams import GRPOTrainer
from tests.training.counting_rewards import digest

REWARDS = Path(__file__).parent / "counting_rewards.py"


def plain_digest(completions, **_):
    """The reward ``digest`` for TRL alone, with the worst score for a malformed completion."""
    texts = [completion[0]["content"] for completion in completions]
    values = digest()(completions=texts)
    return [0.0 if IMAGE_TO_TEXT.parse(text).prediction is None else v for text, v in zip(texts, values, strict=True)]


@pytest.mark.parametrize("architecture", ["qwen2_5_vl", "gemma3"])
def test_two_steps_equal_those_of_a_plain_trainer_to_the_last_bit(make_config, architecture):
    from transformers import set_seed

    config = make_config(architecture, rewards={"mix": [{"name": f"{REWARDS}:digest", "weight": 1.0}]})
    data = RunData(config)
    Path(config.run_dir).mkdir(parents=True)

    set_seed(config.seed)
    session = TrainingSession(config, data)
    order = list(dict.fromkeys(session.trainer.train_sampler(session.trainer.train_dataset)))
    dataset = session.trainer.train_dataset.select(order)
    session.train(before=None, after_save=None)

    set_seed(config.seed)
    arguments = grpo_arguments(config)
    arguments.shuffle_dataset = False  # the rows stand in the order of our sampler already
    plain = GRPOTrainer(
        model=load_policy(config.model),
        reward_funcs=plain_digest,
        args=arguments,
        train_dataset=dataset,
        processing_class=load_processor(config.model),
        peft_config=lora_arguments(config),
    )
    plain.train()

    ours, theirs = (dict(trainer.model.named_parameters()) for trainer in (session.trainer, plain))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert any(parameter.any() for name, parameter in ours.items() if "lora_B" in name), "no step has moved the adapter"
    assert [line["loss"] for line in session.trainer.state.log_history if "loss" in line] == [
        line["loss"] for line in plain.state.log_history if "loss" in line
    ]
