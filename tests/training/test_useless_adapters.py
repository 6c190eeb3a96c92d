"""An adapter that cannot move, or moves the policy before the first step, is refused."""

import pytest
from peft import LoraConfig

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.training import session
from tests.training.nano_runs import session_for


def test_an_adapter_that_is_not_zero_at_the_start_is_refused(make_config, monkeypatch):
    options = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False}
    monkeypatch.setattr(session, "lora_arguments", lambda config: LoraConfig(**options))
    with pytest.raises(TrainingError, match="changes the policy before the first step"):
        session_for(make_config())


def test_a_policy_of_which_everything_is_frozen_is_refused(make_config, monkeypatch):
    options = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "inference_mode": True}
    monkeypatch.setattr(session, "lora_arguments", lambda config: LoraConfig(**options))
    with pytest.raises(TrainingError, match="nothing is trainable"):
        session_for(make_config())
