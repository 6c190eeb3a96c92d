"""Rewards with a renderer in the loop: renders, seeds and comparisons."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from grpo_mmpc.errors import RewardError
from grpo_mmpc.rendering import shared
from grpo_mmpc.rendering.registry import check_renderer
from grpo_mmpc.rendering.store import render_seed
from grpo_mmpc_rewards.image import clip_similarity, dinov2_similarity

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
