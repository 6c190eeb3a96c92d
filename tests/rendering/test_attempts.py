import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.rendering.attempts import attempt
from grpo_mmpc.rendering.renderer import Rendered

PICTURE = Image.new("RGB", (1, 1))


def batch_renderer(*, bad=(), memory=10**6, error=ValueError):
    """A batch renderer that raises for a bad prompt or a large batch; notes its calls."""

    def render(prompts, seeds):
        render.calls.append(list(zip(prompts, seeds, strict=True)))
        if len(prompts) > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for prompt in prompts:
            if prompt in bad:
                raise error(f"cannot draw {prompt}")
        return [Rendered(image=PICTURE, reason=None) for _ in prompts]

    render.calls = []
    return render


@settings(deadline=None, max_examples=60)
@given(
    bad=st.lists(st.booleans(), min_size=1, max_size=12),
    batch_size=st.integers(1, 5),
    memory=st.integers(1, 5),
)
def test_exactly_the_bad_prompts_fail_whatever_the_batch_and_the_memory(bad, batch_size, memory):
    prompts = [f"p{i}" for i in range(len(bad))]
    render = batch_renderer(bad={p for p, is_bad in zip(prompts, bad, strict=True) if is_bad}, memory=memory)
    results = attempt(render, prompts, seeds=list(range(len(bad))), batch_size=batch_size)
    assert [result.image is None for result in results] == bad
    assert [result.reason for result in results] == [
        f"ValueError: cannot draw {prompt}" if is_bad else None for prompt, is_bad in zip(prompts, bad, strict=True)
    ]
    assert max(map(len, render.calls)) <= batch_size
    assert all(seed == int(prompt[1:]) for call in render.calls for prompt, seed in call)


def test_a_batch_without_failure_is_rendered_once():
    render = batch_renderer()
    attempt(render, ["a", "b", "c"], seeds=[1, 2, 3], batch_size=2)
    assert render.calls == [[("a", 1), ("b", 2)], [("c", 3)]]


def test_a_failing_batch_is_halved_until_the_failure_stands_alone():
    render = batch_renderer(bad={"d"})
    attempt(render, list("abcd"), seeds=[0] * 4, batch_size=4)
    assert ["".join(prompt for prompt, _ in call) for call in render.calls] == ["abcd", "ab", "cd", "c", "d"]


def test_the_same_error_for_different_prompts_is_the_renderers_fault():
    def broken(prompts, seeds):
        raise RuntimeError("weights are on two devices\ndetails")

    with pytest.raises(EvaluationError, match=r"all of 3 images.*RuntimeError: weights are on two devices\. A"):
        attempt(broken, ["a", "b", "c"], seeds=[0] * 3, batch_size=1)
    # One prompt alone may be at fault.
    assert (
        attempt(broken, ["a", "a"], seeds=[0, 1], batch_size=2)[0].reason == "RuntimeError: weights are on two devices"
    )


def test_declining_every_prompt_is_not_an_error():
    results = attempt(lambda p, _: [Rendered(reason="empty")] * len(p), ["", " "], seeds=[0, 0], batch_size=2)
    assert [result.reason for result in results] == ["empty", "empty"]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_image_too_large_for_the_memory_is_no_failure_of_its_prompt(error):
    def full(prompts, seeds):
        raise error

    with pytest.raises(EvaluationError, match="not even one image fits into memory"):
        attempt(full, ["a"], seeds=[0], batch_size=1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, TypeError, KeyError, torch.AcceleratorError])
def test_interruptions_bugs_and_a_lost_device_are_not_caught(error):
    render = batch_renderer(bad={"b"}, error=error)
    with pytest.raises(error):
        attempt(render, ["a", "b"], seeds=[0, 0], batch_size=2)
    assert len(render.calls) == 1
