import json

import pytest

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.nano.renderer import NanoRenderer
from grpo_mmpc.rendering.registry import load_renderer, renderer_identity
from grpo_mmpc.rendering.renderer import CountsTokens

OWN = "tests.rendering.own_renderers"


def test_nano_is_loaded_by_name_with_its_arguments():
    assert load_renderer("nano").size == 84
    renderer = load_renderer("nano", size=32)
    assert isinstance(renderer, NanoRenderer)
    assert renderer.render(["a red mug"], seeds=[0])[0].size == (32, 32)


def test_the_nano_renderer_counts_words_and_has_no_limit():
    renderer = load_renderer("nano")
    assert isinstance(renderer, CountsTokens)
    assert renderer.token_limit is None
    assert renderer.prompt_tokens(["a red  mug", ""]) == [3, 0]


def test_diffusers_is_loaded_by_name():
    # A folder that is not there shows that the arguments arrived, without a model.
    with pytest.raises(EvaluationError, match="cannot load '/no/such/pipeline'"):
        load_renderer("diffusers", model="/no/such/pipeline", device="cpu")


def test_a_renderer_of_ones_own_needs_render_only():
    renderer = load_renderer(f"{OWN}:PlainRenderer", size=3, style="bold")
    assert (renderer.size, renderer.style) == (3, "bold")
    assert not isinstance(renderer, CountsTokens)
    assert load_renderer(f"{OWN}:takes_anything", style="any").style == "any"


@pytest.mark.parametrize(
    ("reference", "kwargs", "message"),
    [
        ("nanno", {}, r"unknown renderer 'nanno' \(did you mean 'nano'\?\)"),
        ("midjourney", {}, r"\(known: diffusers, images_api, nano\); for your own write module:factory"),
        ("no_such_module:make", {}, "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        (f"{OWN}:absent", {}, "cannot be loaded.*has no attribute 'absent'"),
        (":make", {}, "cannot be loaded"),
        (f"{OWN}:NOT_CALLABLE", {}, "is a int; expected a class or function"),
        (f"{OWN}:no_renderer", {}, r"gave a str, which has no render\(prompts"),
        (f"{OWN}:needs_a_style", {}, "needs the argument style in renderer_kwargs"),
        (f"{OWN}:no_renderer", {"x": 1}, "takes no argument 'x'; it takes none"),
        ("nano", {"sise": 32}, "renderer 'nano' takes no argument 'sise'; did you mean 'size'"),
        ("diffusers", {"num_inference_steps": 4}, "takes no argument 'num_inference_steps'; known: .*call_kwargs"),
    ],
)
def test_what_cannot_be_built_says_why(reference, kwargs, message):
    with pytest.raises(EvaluationError, match=message):
        load_renderer(reference, **kwargs)


def test_what_does_not_say_that_it_makes_a_renderer_is_not_called(tmp_path):
    for reference in ("os:system", "subprocess:call", "builtins:print", "tests.rendering.own_renderers:image_of"):
        with pytest.raises(
            EvaluationError, match=f"renderer '{reference}' is not known to make one, and is not called"
        ):
            load_renderer(reference, command=f"touch {tmp_path / 'called'}")
    assert not list(tmp_path.iterdir())


def test_the_identity_is_the_name_and_what_changes_images():
    base = renderer_identity("diffusers", {"model": "m", "call_kwargs": {"a": 1, "b": 2}})
    assert json.loads(base) == ["diffusers", {"model": "m", "call_kwargs": {"a": 1, "b": 2}}]
    same = {"call_kwargs": {"b": 2, "a": 1}, "model": "m", "batch_size": 1, "device": "cuda:3"}
    assert renderer_identity("diffusers", same) == base
    signed = renderer_identity("diffusers", {"model": "m", "init_kwargs": {"token": "hf_secret"}})
    assert "hf_secret" not in signed and "password" not in renderer_identity("nano", {"url": "http://me:password@host"})
    assert renderer_identity("diffusers", {"model": "m", "call_kwargs": {"a": 1}}) != base
    assert renderer_identity("nano") == renderer_identity("nano", {}) != base


def test_every_argument_of_a_foreign_renderer_is_part_of_its_identity():
    assert renderer_identity("my:factory", {"device": "cpu"}) != renderer_identity("my:factory", {"device": "cuda"})
