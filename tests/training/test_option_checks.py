"""What a recipe must not say under ``trainer`` and ``adapter``, each with the reason."""

import pytest

from grpo_mmpc.training.option_checks import check_trainer


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
        ({"max_steps": 0}, "as many as trainer.num_train_epochs asks for"),
        ({"num_train_epochs": 0}, "trains nothing"),
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"report_to": "foo"}, "foo is not supported"),
        ({"report_to": "wandb"}, "wandb"),
        ({"use_liger_kernel": True}, "pip install liger-kernel"),
        ({"chat_template_kwargs": "x"}, "expected a mapping"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_would_do_something_else_is_refused_with_the_reason(trainer, said):
    problems = dict(check_trainer({"trainer": {"use_cpu": True, "bf16": False} | trainer}))
    assert said in problems.get(f"trainer.{next(iter(trainer))}", ""), problems


@pytest.mark.parametrize(
    "trainer",
    [
        {"use_vllm": False, "eval_strategy": "no", "push_to_hub": False, "remove_unused_columns": False},
        {"include_num_input_tokens_seen": "all", "loss_type": "grpo", "scale_rewards": False},
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
        ({"bias": "all"}, "stay so without the adapter"),
        ({"target_modules": ".*("}, "'.*(' is no regular expression: missing ), unterminated subpattern"),
        ({"lora_alhpa": 4}, "did you mean 'lora_alpha'?"),
    ],
)
def test_an_adapter_must_be_able_to_move_and_be_nothing_when_it_is_off(adapter, said):
    (problem,) = check_trainer({"adapter": {"r": 4} | adapter})
    assert said in problem[1]


@pytest.mark.parametrize(
    ("options", "misspelt", "nearest"),
    [
        ({"generation_kwargs": {"repetition_penalti": 1.1, "min_p": 0.1}}, "repetition_penalti", "repetition_penalty"),
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
