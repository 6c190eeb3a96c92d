"""What a recipe makes of vLLM's arguments, and which recipes it refuses before anything starts."""

import pytest

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.vllm.arguments import check_rollout, engine_arguments, sampling_warning, start_advice
from grpo_mmpc.rollout.vllm.server_facts import expected_engine

TARGETS = r".*language_model.*\.(q|k|v|o)_proj"


def problems_of(**sections) -> dict[str, str]:
    raw = {"rollout": {"backend": "vllm"}, "adapter": {"target_modules": TARGETS}, **sections}
    return dict(check_rollout(raw))


def test_trainer_and_engine_share_model_dtype_image_size_and_seed(make_config):
    config = make_config(
        model={"processor_kwargs": {"min_pixels": 3136, "max_pixels": 50176}},
        rollout={"backend": "vllm", "engine": {"max_model_len": 512}},
        seed=7,
    )
    arguments = engine_arguments(config)
    assert arguments["model"].endswith("assets/qwen2_5_vl")
    assert arguments["mm_processor_kwargs"] == {"min_pixels": 3136, "max_pixels": 50176}
    assert (arguments["dtype"], arguments["seed"], arguments["max_model_len"]) == ("float32", 7, 512)
    assert (arguments["enable_lora"], arguments["logprobs_mode"]) == (True, "processed_logprobs")


def test_a_schema_is_decoded_without_spaces_in_which_a_policy_could_stay(make_config):
    free, structured = (
        engine_arguments(make_config(rollout={"backend": "vllm", "structured": asked})) for asked in (False, True)
    )
    assert structured == free | {"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}}


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (2, 8), (16, 16), (17, 32), (512, 512)])
def test_the_adapters_rank_is_rounded_up_to_one_that_vllm_serves(make_config, rank, served):
    assert engine_arguments(make_config(adapter={"r": rank}))["max_lora_rank"] == served


@pytest.mark.parametrize(("pattern", "greatest", "served"), [({"q_proj": 20}, 20, 32), ({"q_proj": 2}, 4, 8)])
def test_a_pattern_of_ranks_counts_in_engines_of_ours_and_on_servers(make_config, pattern, greatest, served):
    config = make_config(adapter={"r": 4, "rank_pattern": pattern})
    assert engine_arguments(config)["max_lora_rank"] == served
    assert expected_engine(config, context_tokens=1).lora_rank == greatest
    with pytest.raises(RolloutError, match="is 513, vLLM's largest is 512"):
        engine_arguments(make_config(adapter={"r": 4, "rank_pattern": pattern | {"k_proj": 513}}))


def test_a_rank_beyond_vllms_largest_is_refused(make_config):
    with pytest.raises(RolloutError, match=r"rank of adapter\.rank_pattern is 513, vLLM's largest is 512"):
        engine_arguments(make_config(adapter={"r": 513}))


def test_a_recipe_with_transformers_rollouts_is_not_looked_at():
    assert problems_of(rollout={"backend": "transformers"}, adapter={"target_modules": "all-linear"}) == {}


def test_servers_are_not_given_to_transformers():
    problems = problems_of(rollout={"mode": "server", "servers": ["http://a:8000"]})
    assert problems == {
        "rollout.mode": "'server' is vLLM's alone; set rollout.backend=vllm, or remove it",
        "rollout.servers": "['http://a:8000'] is vLLM's alone; set rollout.backend=vllm, or remove it",
    }


@pytest.mark.parametrize(
    ("sections", "key", "message"),
    [
        ({"rollout": {"backend": "vllm", "engine": {"dtype": "half"}}}, "rollout.engine.dtype", "model.init_kwargs"),
        ({"rollout": {"backend": "vllm", "engine": {"model": "x"}}}, "rollout.engine.model", "model.name_or_path"),
        ({"trainer": {"min_p": 0.1}}, "trainer.min_p", "importance-sampling correction would be wrong"),
        ({"adapter": {"target_modules": "all-linear"}}, "adapter.target_modules", "vision_tower"),
        ({"adapter": {}}, "adapter.target_modules", "name language layers"),
        ({"adapter": {"target_modules": TARGETS, "use_dora": True}}, "adapter.use_dora", "not served by vLLM"),
        ({"adapter": {"target_modules": TARGETS, "bias": "all"}}, "adapter.bias", "'all' is not served"),
    ],
)
def test_what_vllm_would_ignore_or_contradict_is_named_with_the_fix(sections, key, message):
    problems = problems_of(**sections)
    assert list(problems) == [key]
    assert message in problems[key]


def test_a_policy_without_an_adapter_has_no_modules_that_vllm_could_leave_out():
    assert problems_of(adapter=None) == {}


def test_importance_sampling_settings_stay_with_the_trainer():
    assert problems_of(trainer={"vllm_importance_sampling_mode": "token_mask"}) == {}


@pytest.mark.parametrize(
    ("trainer", "warned"),
    [
        ({}, False),
        ({"top_p": 1.0, "top_k": 0}, False),
        ({"top_p": 0.9}, True),
        ({"top_k": 50}, True),
        ({"top_k": 50, "vllm_importance_sampling_correction": False}, False),
    ],
)
def test_filters_are_warned_about_only_where_the_correction_is_on(trainer, warned):
    assert (sampling_warning(trainer) is not None) == warned


@pytest.mark.parametrize(
    ("trainer", "refused"),
    [
        ({"loss_type": "vespo"}, True),
        ({"loss_type": "vespo", "vllm_importance_sampling_mode": "sequence_truncate"}, True),
        ({"loss_type": "vespo", "vllm_importance_sampling_mode": "token_mask"}, False),
        ({"loss_type": "vespo", "vllm_importance_sampling_correction": False}, False),
        ({"loss_type": "dapo"}, False),
    ],
)
def test_vespo_takes_weights_of_tokens_only_as_in_trl(trainer, refused):
    assert ("trainer.vllm_importance_sampling_mode" in problems_of(trainer=trainer)) == refused


def test_one_process_alone_lets_a_server_hold_an_engine_of_several_parts(make_config, monkeypatch):
    import torch

    from grpo_mmpc.rollout import offline

    config = make_config(rollout={"backend": "vllm", "engine": {"tensor_parallel_size": 4}})
    assert offline._without_trainer(config).rollout.mode == "server"
    one = make_config(rollout={"backend": "vllm", "engine": {"tensor_parallel_size": 1}})
    assert offline._without_trainer(one) is one
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RolloutError, match=r"tensor_parallel_size is 4, and this machine has 1 GPU"):
        offline._without_trainer(config)


def test_a_chat_template_that_servers_refuse_is_refused_before_they_are_asked():
    trainer = {"chat_template_kwargs": {"chat_template": "x", "enable_thinking": False}}
    found = problems_of(rollout={"backend": "vllm", "mode": "server"}, trainer=trainer)
    assert found["trainer.chat_template_kwargs.chat_template"].startswith("is refused by vLLM's servers")
    assert not {key for key in problems_of(trainer=trainer) if "chat_template" in key}


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("There is no module or parameter named 'vision_tower.embeddings' in Llava", "names, those of published check"),
        ("No available memory for the cache blocks", "Give the engine more memory"),
        ("[Errno 98] Address already in use", "Its port was taken in the meantime"),
        ("something else", "Check rollout.engine and the model"),
    ],
)
def test_an_engine_that_does_not_start_is_answered_by_what_vllm_said(said, advice):
    assert advice in start_advice(said)
