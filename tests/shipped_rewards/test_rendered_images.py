"""Rewards with a renderer in the loop: renders, seeds and comparisons."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from grpo_mmpc.errors import RewardError
from grpo_mmpc.rendering import shared
from grpo_mmpc.rendering.registry import check_renderer
from grpo_mmpc.rendering.store import render_seed
from grpo_mmpc_rewards.image import clip_similarity, dinov2_similarity
from grpo_mmpc_rewards.rendered import attribute_consistency, cycle_consistency

RENDERER = """
from PIL import Image

class Renderer:
    built = []
    calls = []

    def __init__(self, size=8, device=None):
        self.size = size
        self.built.append((size, device))

    def render(self, prompts, *, seeds):
        self.calls.append(list(zip(prompts, seeds)))
        return [None if p == "nothing" else Image.new("RGB", (self.size, self.size), p) for p in prompts]
"""
NAME = "counting_renderer_module:Renderer"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "counting_renderer_module.py").write_text(RENDERER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "counting_renderer_module", raising=False)
    monkeypatch.setattr(shared, "_shared", {})
    check_renderer(NAME, {})
    return sys.modules["counting_renderer_module"].Renderer


def test_clip_and_dinov2_share_the_pictures_of_a_renderer(module: Any, photo: str, dinov2_folder: Path) -> None:
    batch: dict[str, list[Any]] = {
        "predictions": ["red", "blue", "red", "nothing"],
        "image_paths": [photo] * 4,
        "item_ids": ["a", "a", "a", "b"],
        "tasks": ["text_to_image"] * 4,
    }
    clip = clip_similarity(
        model="nano:clip",
        against="rendered_image",
        renderer=NAME,
        renderer_kwargs={"size": 28},
        floor=-1.0,
        device="cpu",
    )
    dino = dinov2_similarity(
        model=str(dinov2_folder), renderer=NAME, renderer_kwargs={"size": 28}, floor=-1.0, device="cpu"
    )
    first, second = clip(**batch), dino(**batch)
    assert module.built == [(28, None)]
    assert module.calls == [[("red", render_seed("a")), ("blue", render_seed("a")), ("nothing", render_seed("b"))]]
    for scores in (first, second):
        assert scores[0] == scores[2] != scores[1]
        assert scores[3] == -1.0  # nothing was rendered


def test_dinov2_is_the_cosine_of_the_real_image_and_the_render(
    module: Any, dinov2_folder: Path, tmp_path: Path
) -> None:
    from grpo_mmpc.encoders.dinov2 import dinov2_encoder

    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")
    red, blue = str(tmp_path / "red.png"), str(tmp_path / "blue.png")
    reward = dinov2_similarity(model=str(dinov2_folder), renderer=NAME, floor=-1.0, device="cpu")
    scores = reward(
        predictions=["red", "blue", "red", "red", "nothing"],
        image_paths=[red, red, None, str(tmp_path / "absent.png"), str(tmp_path / "absent.png")],
        item_ids=list("abcde"),
    )
    expected = dinov2_encoder(model=str(dinov2_folder), device="cpu").image_image(image_paths=[red], other_paths=[blue])
    # the same picture, another, no real image, an unreadable one (whether or not something was
    # rendered)
    assert scores == [pytest.approx(1.0), pytest.approx(expected[0]), None, None, None]
    cut = dinov2_similarity(model=str(dinov2_folder), renderer=NAME, floor=0.99, device="cpu")
    assert cut(predictions=["nothing"], image_paths=[red], item_ids=["a"]) == [0.99]


def test_dinov2_encodes_real_images_before_there_are_completions(module: Any, dinov2_folder: Path, photo: str) -> None:
    reward = dinov2_similarity(model=str(dinov2_folder), renderer=NAME, device="cpu")
    reward.prepare(image_paths=[photo, None, photo], item_ids=["a", "b", "a"], tasks=["text_to_image"] * 3)  # type: ignore[misc]
    assert module.calls == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"renderer": "nono"}, r"unknown renderer 'nono' \(.*nano.*for your own write module:factory"),
        (
            {"renderer": "no_such_module:Renderer"},
            "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ({"renderer": ":Renderer"}, "renderer ':Renderer' cannot be loaded"),
        ({"renderer": None}, "a renderer is needed: nano, diffusers, images_api or module:factory"),
        ({"renderer": "nano", "renderer_kwargs": {"device": "cuda:1"}}, "renderer 'nano' takes no argument 'device'"),
        ({"floor": -2.0}, "floor"),
    ],
)
def test_wrong_kwargs_are_refused_while_building(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        dinov2_similarity(**kwargs)


def test_the_nano_renderer_fits(make_reward: Callable[..., Any], make_batch: Callable[..., Any]) -> None:
    reward = make_reward("clip_similarity", against="rendered_image", renderer="nano", renderer_kwargs={"size": 64})
    right, wrong, empty = reward(**make_batch(["a red tote bag", "a blue mug", ""], task="text_to_image"))
    assert -1.0 < right < 1.0 and -1.0 < wrong < 1.0 and right != wrong
    assert empty == -1.0


class FakeClip:
    """Sees the red, green and blue of an image, and the colour that a text names."""

    colours: ClassVar = {
        "red": (1.0, 0.0, 0.0),
        "green": (0.0, 1.0, 0.0),
        "blue": (0.0, 0.0, 1.0),
        "teal": (0.0, 0.8, 0.6),
    }

    def embed_images(self, images: list[Any]) -> Any:
        import torch

        return torch.tensor([[channel / 255 for channel in image.getpixel((0, 0))] for image in images])

    def embed_texts(self, texts: list[str]) -> Any:
        import torch

        return torch.tensor([next(v for name, v in self.colours.items() if name in text) for text in texts])


@pytest.fixture
def sees_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_mmpc_rewards.rendered.clip_encoder", lambda **_: FakeClip())


@pytest.mark.usefixtures("sees_colours")
def test_cycle_consistency_is_the_share_of_other_titles_that_the_image_resembles_less(module: Any) -> None:
    reward = cycle_consistency(renderer=NAME, other_titles=3)
    reward.fit(["red mug", "green mug", "blue mug", "teal mug", "red mug"])  # type: ignore[misc]
    scores = reward(
        predictions=["red", "lime", "blue", "red", "nothing", "red"],
        title=["red mug", "teal mug", "teal mug", "blue mug", "red mug", None],
        item_ids=list("abcdef"),
    )
    # Cosines with red, green, blue, teal. a: 1 against 0, 0, 0. b: teal .8 is above red and blue,
    # below green. c: teal .6 is above red and green, below blue. d: blue 0 as green and teal, below
    # red: half of two of three. e: nothing was rendered. f: no title.
    assert scores == [1.0, pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0, None]


@pytest.mark.usefixtures("sees_colours")
def test_attribute_consistency_is_the_mean_over_kinds_of_wrong_values_that_come_out_below(module: Any) -> None:
    values = {"color": ["Red", "Green", "Blue"], "trim": ["red", "teal"]}
    reward = attribute_consistency(values=values, renderer=NAME, template="a {value} thing")
    scores = reward(
        predictions=["red", "lime", "lime", "red", "nothing"],
        item_ids=list("abcde"),
        attributes=[
            {"color": "red"},
            {"color": " GREEN "},
            {"color": "red", "trim": "teal"},
            {"color": "plaid"},
            {"color": "red"},
        ],
    )
    # c: red 0 as blue and below green: a quarter; teal .8 above red: 1; their mean. d: not listed.
    assert scores == [1.0, 1.0, pytest.approx((0.25 + 1.0) / 2), None, 0.0]
    assert reward(predictions=["red"], item_ids=["a"], attributes=[None]) == [None]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cycle_consistency(other_titles=0), "other_titles must be at least 1, found 0"),
        (lambda: cycle_consistency(renderer="nono"), "unknown renderer 'nono'"),
        (lambda: attribute_consistency(values={"color": ["red", "RED"]}), "values.color must list at least two"),
        (lambda: attribute_consistency(template="a photo"), "template must hold {value}, found 'a photo'"),
        (lambda: cycle_consistency(renderer="nano").fit(["a", "a"]), "1 different training titles, needs two"),
        (
            lambda: cycle_consistency(renderer="nano")(predictions=["a"], title=["b"], item_ids=["c"]),
            "was not fitted",
        ),
    ],
)
def test_consistencies_that_cannot_be_measured_say_why(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        build()
