"""What we lean on in TRL and Transformers. An upgrade that moves it fails here, in one place."""

import dataclasses
import inspect
import re

import pytest

from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()

from transformers import TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

FIELDS = {
    "reward_weights",
    "multi_objective_aggregation",
    "num_generations",
    "generation_batch_size",
    "steps_per_generation",
    "ds3_gather_for_generation",
    "shuffle_dataset",
    "output_dir",
    "seed",
    "disable_tqdm",
    "report_to",
}


def test_grpo_config_has_the_fields_that_are_set_or_read():
    assert FIELDS <= {field.name for field in dataclasses.fields(GRPOConfig)}


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_get_train_sampler", ["self", "dataset"]),
        ("_log_completion_extra", ["self", "column", "values"]),
        ("_generate", ["self", "prompts"]),
        ("log", ["self", "logs", "start_time"]),
    ],
)
def test_overridden_and_called_methods_keep_their_signature(method, parameters):
    assert list(inspect.signature(getattr(GRPOTrainer, method)).parameters) == parameters


def test_reward_functions_receive_the_keywords_that_the_mix_drops():
    source = inspect.getsource(GRPOTrainer._calculate_rewards)
    for keyword in ("prompts=", "completions=", "completion_ids=", '"trainer_state"', '"log_extra"', '"log_metric"'):
        assert keyword in source


def test_per_batch_logs_are_still_filled_after_the_advantages():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    for name in ("completion", "advantages", "extra", "rewards", "prompt"):
        assert f'self._logs["{name}"]' in source


def test_the_trainer_keeps_what_schedules_and_redraws_set_and_read():
    source = inspect.getsource(GRPOTrainer)
    for name in (
        "reward_weights",
        "multi_objective_aggregation",
        "scale_rewards",
        "eos_token_ids",
        "_tokenizer",
        "_metrics",
    ):
        assert f"self.{name}" in source
    assert '"num_items_in_batch": num_items_in_batch' in source


def test_metrics_hold_a_time_for_each_step_and_a_mean_length_for_each_batch_of_rollouts_until_they_are_logged():
    for name, method in (("step_time", "training_step"), ("completions/mean_length", "_generate")):
        source = inspect.getsource(getattr(GRPOTrainer, method))
        assert re.search(rf'self\._metrics\[(mode|"train")\]\["{name}"\]\.append\(', source)
    assert "self._metrics[mode].clear()" in inspect.getsource(GRPOTrainer.log)


@pytest.mark.parametrize("event", ["on_train_begin", "on_step_end", "on_log", "on_save"])
def test_callback_events_pass_arguments_state_and_control(event):
    assert list(inspect.signature(getattr(TrainerCallback, event)).parameters)[1:4] == ["args", "state", "control"]


def test_the_generation_helper_still_gathers_zero3_parameters():
    from trl.models.utils import unwrap_model_for_generation

    assert "gather_deepspeed3_params" in inspect.signature(unwrap_model_for_generation).parameters


def test_the_object_composed_for_vllm_is_only_asked_to_sync_and_to_generate():
    """``RecordingGRPOTrainer.use_rollouts`` puts ours in its place."""
    source = inspect.getsource(GRPOTrainer)
    used = set(re.findall(r"self\.vllm_generation\.(\w+)", source))
    # vllm_client and llm: at construction in server mode, and for tools in colocate mode; neither
    # happens here
    assert used == {"sync_weights", "generate", "vllm_client", "llm"}
    assert 'self.use_vllm and self.vllm_mode == "colocate"' in source
    call = inspect.getsource(GRPOTrainer._generate_single_turn)
    assert "_, completion_ids, logprobs, _ = self.vllm_generation.generate(" in call
    assert "logprobs = [[lp[0] for lp in seq] for seq in logprobs]" in call
    assert "self.state.global_step != self._last_loaded_step" in call


def test_our_rollouts_take_what_trl_passes_to_its_own():
    from trl.generation.vllm_generation import VLLMGeneration

    from grpo_mmpc.rollout.vllm.generation import VLLMRollouts

    for method in ("sync_weights", "generate"):
        theirs, ours = (inspect.signature(getattr(owner, method)) for owner in (VLLMGeneration, VLLMRollouts))
        assert list(ours.parameters) == list(theirs.parameters)


def test_the_masked_fraction_can_be_read_off_the_batch():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert 'output["importance_sampling_ratio"] = vllm_importance_sampling_ratio' in source
    assert "vllm_importance_sampling_ratio.masked_fill(" in source
