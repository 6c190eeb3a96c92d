"""What a recipe must not say under ``trainer`` and ``adapter``, each with the reason."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from grpo_mmpc.training.option_checks import check_trainer
from grpo_mmpc.training.sharding_checks import check_sharding


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"use_vllm": True}, "set rollout.backend: vllm"),
        ({"vllm_gpu_memory_utilization": 0.5}, "set rollout.mode and rollout.engine"),
        ({"trust_remote_code": True}, "set model.init_kwargs.trust_remote_code"),
        ({"num_generations_eval": 2}, "TRL's own evaluation is not used"),
        ({"eval_on_start": True}, "TRL's own evaluation is not used"),
        ({"eval_strategy": "steps"}, "TRL's own evaluation is not used"),
        ({"max_tool_calling_iterations": 2}, "completions call no tools"),
        ({"train_sampling_strategy": "sequential"}, "an order of their own"),
        ({"push_to_hub": True}, "a run publishes nothing"),
        ({"hub_model_id": "a/b"}, "a run publishes nothing"),
        ({"log_completions_hub_repo": "a/b"}, "a run publishes nothing"),
        ({"sync_ref_model": True}, "which nothing has to sync"),
        ({"parallelism_config": {"tp_size": 2}}, "set the launch file"),
        ({"remove_unused_columns": True}, "rewards need the columns"),
        ({"save_only_model": True}, "could not go on"),
        ({"logging_strategy": "no"}, "the curves of a run"),
        ({"loss_type": "foo"}, "expected one of dapo, bnpo, cispo, vespo, grpo, dr_grpo, sapo, luspo, found 'foo'"),
        ({"scale_rewards": "foo"}, "expected one of group, batch, none, found 'foo'"),
        ({"fp16": True, "use_cpu": True}, "has no effect on a CPU"),
        ({"learning_rate": -1.0}, "expected a number from 0 on"),
        ({"learning_rate": float("nan")}, "expected a number from 0 on"),
        ({"save_steps": 0}, "expected a number above 0"),
        ({"temperature": 0.0}, "expected a number above 0, found 0.0"),
        ({"top_p": 1.5}, "expected a number above 0 up to 1, found 1.5"),
        ({"top_k": -5}, "expected a number from 0 on"),
        ({"top_entropy_quantile": 7.0}, "up to 1"),
        ({"beta": -1.0}, "expected a number from 0 on"),
        ({"epsilon": -1.0}, "expected a number from 0 on"),
        ({"weight_decay": -1.0}, "expected a number from 0 on"),
        ({"num_iterations": 0}, "expected a number from 1 on"),
        ({"gradient_accumulation_steps": 0}, "expected a number from 1 on"),
        ({"per_device_train_batch_size": 0}, "expected a number from 1 on"),
        ({"max_completion_length": 0}, "expected a number from 1 on"),
        ({"max_steps": -5}, "expected a number from -1 on"),
        ({"log_level": "foo"}, "expected one of debug"),
        ({"vllm_importance_sampling_mode": "foo"}, "expected one of token_truncate"),
        ({"epsilon_high": 0.28, "loss_type": "cispo"}, "0.28 would cut those of all tokens to it"),
        ({"epsilon_high": None, "loss_type": "cispo"}, "0.2 would cut those of all tokens to it"),
        ({"torch_compile_backend": "foo"}, "is not a valid DynamoBackend"),
        ({"cache_implementation": "foo"}, "Invalid `cache_implementation` (foo)"),
        ({"label_smoothing_factor": 0.1}, "GRPO learns from rewards"),
        ({"include_num_input_tokens_seen": "all"}, "Transformers cannot count these"),
        ({"use_transformers_continuous_batching": True}, "models that see images"),
        ({"label_names": ["title"]}, "GRPO learns from rewards"),
        ({"include_for_metrics": ["loss"]}, "TRL's own evaluation is not used"),
        ({"optim": "adamw_torch", "optim_args": "foo=1"}, "it does not look at trainer.optim_args"),
        ({"optim": "adamw_torch", "adam_beta1": 2.0}, "Invalid beta parameter"),
        ({"deepspeed": "gone.json"}, "gone.json: it does not exist"),
        ({"fsdp_config": "gone.json"}, "gone.json: it does not exist"),
        ({"fsdp_config": ["a"]}, "expected a mapping or the name of a JSON file"),
        ({"max_steps": 0}, "as many as trainer.num_train_epochs asks for"),
        ({"num_train_epochs": 0}, "trains nothing"),
        ({"optim": "schedule_free_adamw"}, "schedulefree"),
        ({"report_to": "foo"}, "foo is not supported"),
        ({"report_to": "wandb"}, "wandb"),
        ({"use_liger_kernel": True}, "pip install liger-kernel"),
        ({"chat_template_kwargs": "x"}, "expected a mapping"),
        ({"accelerator_config": True}, "expected a mapping, found True"),
        ({"enable_jit_checkpoint": True}, "a signal saves and stops anyway"),
        ({"trackio_space_id": "a/b"}, "a run publishes nothing"),
        ({"eval_steps": 3}, "TRL's own evaluation is not used"),
        ({"bf16_full_eval": True}, "TRL's own evaluation is not used"),
        ({"per_device_eval_batch_size": 3}, "TRL's own evaluation is not used"),
        ({"greater_is_better": True}, "set evaluation.best"),
        ({"do_predict": True}, "grpo-mmpc evaluate"),
        ({"save_strategy": "best"}, "set save_steps, and evaluation.best"),
        ({"logging_strategy": "epoch"}, "the curves of a run"),
        ({"logging_steps": -1}, "expected a number above 0"),
        ({"logging_steps": 100, "max_steps": 50}, "no curve would be written; set trainer.logging_steps=5"),
        ({"max_steps": 2.5}, "expected a whole number, found 2.5"),
        ({"max_completion_length": 3.5}, "expected a whole number, found 3.5"),
        ({"dataloader_num_workers": 1.5}, "expected a whole number, found 1.5"),
        ({"num_train_epochs": float("inf")}, "expected a number of epochs"),
        ({"dataloader_num_workers": 0, "dataloader_persistent_workers": True}, "needs num_workers > 0"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr or min_lr_rate should be set"),
        ({"pad_to_multiple_of": -3}, "expected a number from 1 on"),
        ({"generation_kwargs": {"early_stopping": "x"}}, "must be a boolean"),
        ({"vllm_importance_sampling_cap": 2.0}, "set rollout.backend=vllm, or remove it"),
        ({"sapo_temperature_pos": 2.0, "loss_type": "grpo"}, "belongs to trainer.loss_type=sapo"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_would_do_something_else_is_refused_with_the_reason(trainer, said):
    problems = dict(check_trainer({"trainer": {"use_cpu": True, "bf16": False} | trainer}))
    assert said in problems.get(f"trainer.{next(iter(trainer))}", ""), problems


def test_an_engine_on_a_cpu_cannot_sleep():
    raw = {"trainer": {"use_cpu": True}, "rollout": {"sleep": True}}
    assert dict(check_trainer(raw))["rollout.sleep"] == "has no effect on a CPU; remove it"


@pytest.mark.parametrize(
    "trainer",
    [
        {"use_vllm": False, "eval_strategy": "no", "push_to_hub": False, "remove_unused_columns": False},
        {"include_num_input_tokens_seen": "no", "loss_type": "grpo", "scale_rewards": False},
        {"save_strategy": "no", "chat_template_kwargs": {"enable_thinking": False}, "report_to": "none"},
    ],
    ids=lambda trainer: next(iter(trainer)),
)
def test_what_happens_anyway_may_be_said(trainer):
    assert list(check_trainer({"trainer": {"use_cpu": True, "bf16": False} | trainer})) == []


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"init_lora_weights": "pissa"}, "the adapter would change the policy before the first step"),
        ({"init_lora_weights": False}, "the adapter would change the policy before the first step"),
        ({"peft_type": "PREFIX_TUNING"}, "'PREFIX_TUNING' is refused: adapters are LoRA"),
        ({"inference_mode": True}, "nothing would be trained"),
        ({"base_model_name_or_path": "x"}, "it is model.name_or_path"),
        ({"modules_to_save": ["lm_head"]}, "an adapter is LoRA alone"),
        ({"trainable_token_indices": [5]}, "an adapter is LoRA alone"),
        ({"revision": "x"}, "it is model.init_kwargs.revision"),
        ({"bias": "all"}, "stay so without the adapter"),
        ({"target_modules": ".*("}, "'.*(' is no regular expression: missing ), unterminated subpattern"),
        ({"alora_invocation_tokens": [5, 6]}, "learn nothing here"),
        ({"kasa_config": {}}, "an adapter is LoRA alone"),
        ({"use_qalora": True}, "GPTQ models alone"),
        ({"lora_alhpa": 4}, "did you mean 'lora_alpha'?"),
    ],
)
def test_an_adapter_must_be_able_to_move_and_be_nothing_when_it_is_off(adapter, said):
    (problem,) = check_trainer({"adapter": {"r": 4} | adapter})
    assert said in problem[1]


@pytest.mark.parametrize(
    ("options", "misspelt", "nearest"),
    [
        ({"generation_kwargs": {"bad_word_ids": [[3]], "typical_p": 0.9}}, "bad_word_ids", "bad_words_ids"),
        ({"gradient_checkpointing_kwargs": {"use_reentrent": False}}, "use_reentrent", "use_reentrant"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycle": 1}}, "num_cycle", "num_cycles"),
    ],
)
def test_keys_of_dictionaries_that_are_passed_on_are_held_to_what_takes_them(options, misspelt, nearest):
    ((key, message),) = check_trainer({"trainer": {"use_cpu": True, **options}})
    (section,) = (name for name in options if name.endswith("kwargs"))
    assert key == f"trainer.{section}.{misspelt}"
    assert f"did you mean {nearest!r}?" in message
    right = {name: {nearest: 1} if name == section else value for name, value in options.items()}
    assert list(check_trainer({"trainer": {"use_cpu": True, **right}})) == []


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("max_new_tokens", "set trainer.max_completion_length"),
        ("temperature", "set trainer.temperature"),
        ("stop_strings", "one sequence that is sampled"),
        ("num_beams", "one sequence that is sampled"),
        ("num_return_sequences", "one sequence that is sampled"),
    ],
)
def test_generation_keys_by_which_rollouts_would_not_be_the_policy_s_samples_are_refused(key, said):
    ((where, message),) = check_trainer({"trainer": {"use_cpu": True, "generation_kwargs": {key: 2}}})
    assert where == f"trainer.generation_kwargs.{key}" and said in message


FSDP = {"fsdp_version": 2, "reshard_after_forward": True, "cpu_offload": False, "transformer_layer_cls_to_wrap": ["X"]}
ZERO = {
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "stage3_max_live_parameters": 1e8},
    "train_micro_batch_size_per_gpu": "auto",
}


@pytest.mark.parametrize("as_file", [False, True], ids=["mapping", "file"])
@pytest.mark.parametrize(
    ("section", "content", "problems"),
    [
        ("fsdp_config", FSDP, {}),
        ("fsdp_config", {"fsdp_versionn": 2}, {"versionn": "version"}),
        ("fsdp_config", {"reshard_after_foward": True}, {"reshard_after_foward": "reshard_after_forward"}),
        ("deepspeed", ZERO, {}),
        ("deepspeed", {"zero_optimisation": {"stage": 2}}, {"zero_optimisation": "zero_optimization"}),
        ("deepspeed", {"scheduler": {"typ": "WarmupLR"}}, {"scheduler.typ": "type"}),
        (
            "deepspeed",
            {"activation_checkpointing": {"profil": True}, "gradient_cliping": 1.0},
            {"activation_checkpointing.profil": "profile", "gradient_cliping": "gradient_clipping"},
        ),
    ],
)
def test_keys_of_fsdp_and_deepspeed_are_held_to_what_reads_them(tmp_path, section, content, problems, as_file):
    if as_file:
        (tmp_path / "config.json").write_text(json.dumps(content))
        content = str(tmp_path / "config.json")
    found = {key: text for key, text in check_sharding({section: content}) if "needs the package" not in text}
    assert found == {
        f"trainer.{section}.{key}": f"unknown key; did you mean {nearest!r}?" for key, nearest in problems.items()
    }


def test_sections_that_say_what_they_read_are_held_to_that(monkeypatch):
    class Zero(BaseModel):
        stage: int = 0
        prefetch: int = Field(0, alias="stage3_prefetch")

    module = SimpleNamespace(DeepSpeedZeroConfig=Zero)
    monkeypatch.setitem(sys.modules, "deepspeed.runtime.zero.config", module)
    content = {"zero_optimization": {"stge": 2, "prefetch": 1, "stage3_prefetch": 1}}
    problems = [key for key, text in check_sharding({"deepspeed": content}) if "needs the package" not in text]
    assert problems == ["trainer.deepspeed.zero_optimization.stge"]


def test_a_key_that_the_installed_deepspeed_reads_is_never_refused():
    zero = pytest.importorskip("deepspeed.runtime.zero.config", reason="DeepSpeed is not installed")
    every = {field.alias or name: 1 for name, field in zero.DeepSpeedZeroConfig.model_fields.items()}
    content = {"zero_optimization": every, "disable_python_gc": True, "fp16": {"enabled": True}}
    assert not list(check_sharding({"deepspeed": content}))
    [(key, _)] = check_sharding({"deepspeed": content | {"disable_python_gcc": True}})
    assert key == "trainer.deepspeed.disable_python_gcc"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("section", ["trainer", "adapter"])
@given(data=st.data())
def test_any_value_of_any_option_is_taken_or_explained(section, data):
    from peft import LoraConfig
    from trl import GRPOConfig

    fields = [field.name for field in dataclasses.fields(GRPOConfig if section == "trainer" else LoraConfig)]
    options = data.draw(st.dictionaries(st.sampled_from(fields), _VALUES, max_size=3))
    assert all(key.startswith(section) and message for key, message in check_trainer({section: options}))
