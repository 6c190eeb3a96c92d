"""The CLIP reward: what is compared with what, and what stays unscored."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from grpo_mmpc.errors import RewardError
from grpo_mmpc.rendering import shared
from grpo_mmpc_rewards import image
from grpo_mmpc_rewards.image import clip_similarity

RENDERER = """
from PIL import Image

CALLS = []

class Renderer:
    def render(self, prompts, *, seeds):
        CALLS.append(list(zip(prompts, seeds)))
        return [None if "nothing" in prompt else Image.new("RGB", (4, 4), prompt) for prompt in prompts]

not_callable = 3
"""


class FakeClip:
    """Cosine by rule: 0.8 for the text or colour that the path names, else -0.5; NaN if broken."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def image_text(self, *, image_paths: Sequence[str], texts: Sequence[str]) -> list[float]:
        self.texts += texts
        return [self._cosine(path, text) for path, text in zip(image_paths, texts, strict=True)]

    def image_image(self, *, image_paths: Sequence[str], other_paths: Sequence[Any]) -> list[float]:
        names = {(255, 0, 0): "red", (0, 0, 255): "blue"}
        shown = [names[o.getpixel((0, 0))] if isinstance(o, Image.Image) else o for o in other_paths]
        return [self._cosine(path, other) for path, other in zip(image_paths, shown, strict=True)]

    @staticmethod
    def _cosine(path: str, other: str) -> float:
        if "broken" in path:
            return math.nan
        return 0.8 if other in path else -0.5


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeClip:
    encoder = FakeClip()
    monkeypatch.setattr(image, "clip_encoder", lambda **_: encoder)
    return encoder


@pytest.fixture
def renderer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "fake_renderer_module.py").write_text(RENDERER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fake_renderer_module", raising=False)
    monkeypatch.setattr(shared, "_shared", {})
    return "fake_renderer_module:Renderer"


def batch(**columns: list[Any]) -> dict[str, list[Any]]:
    count = len(columns["predictions"])
    return {"tasks": ["image_to_text"] * count, "item_ids": [f"item{i}" for i in range(count)], **columns}


def test_both_tasks_compare_the_real_image_with_the_text(encoder: FakeClip) -> None:
    scores = clip_similarity()(
        **batch(predictions=["red", "blue", "red"], image_paths=["/red.png", "/red.png", "/red.png"])
        | {"tasks": ["image_to_text", "image_to_text", "text_to_image"]}
    )
    assert scores == [0.8, 0.0, 0.8]


def test_items_without_a_readable_image_are_unscored(encoder: FakeClip) -> None:
    scores = clip_similarity()(**batch(predictions=["red"] * 3, image_paths=["/red.png", None, "/broken.png"]))
    assert scores == [0.8, None, None]
    assert encoder.texts == ["red", "red"]


def test_the_floor_is_the_least_reward_and_that_of_malformed_completions(encoder: FakeClip) -> None:
    assert clip_similarity().worst_score == 0.0
    reward = clip_similarity(floor=-1.0)
    assert (reward.worst_score, reward.value_range) == (-1.0, (-1.0, 1.0))
    assert reward(**batch(predictions=["blue"], image_paths=["/red.png"])) == [-0.5]


def test_a_floor_that_cuts_most_of_a_batch_is_reported_once(
    encoder: FakeClip, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "_warned", set())
    reward = clip_similarity(model="some/clip")
    reward(**batch(predictions=["red", "blue"], image_paths=["/red.png"] * 2))  # half: nothing to say
    assert not caplog.records
    for _ in range(2):
        reward(**batch(predictions=["blue", "blue"], image_paths=["/red.png"] * 2))
    assert [record.message for record in caplog.records] == [
        "2 of 2 cosines of some/clip lie below floor=0 and give no signal; set floor: -1 for this encoder"
    ]


def test_text_to_image_can_compare_what_the_prompt_draws(encoder: FakeClip, renderer: str) -> None:
    reward = clip_similarity(against="rendered_image", renderer=renderer)
    scores = reward(
        predictions=["red", "blue", "nothing", "red", "nothing", "red"],
        image_paths=["/red.png", "/red.png", "/red.png", "/red.png", "/broken.png", None],
        targets=["image"] * 3 + ["text"] + ["image"] * 2,
        item_ids=["a", "a", "a", "b", "c", "d"],
    )
    # right, wrong, not rendered, text as in image_to_text, real image unreadable, no real image
    assert scores == [0.8, 0.0, 0.0, 0.8, None, None]
    assert encoder.texts == ["red"]


def test_completions_of_an_item_share_a_seed_and_equal_prompts_are_rendered_once(
    encoder: FakeClip, renderer: str
) -> None:
    reward = clip_similarity(against="rendered_image", renderer=renderer)
    reward(
        predictions=["red", "red", "blue", "red"],
        image_paths=["/red.png"] * 4,
        targets=["image"] * 4,
        item_ids=["a", "a", "a", "b"],
    )
    ((first, second, third),) = sys.modules["fake_renderer_module"].CALLS
    assert [first[0], second[0], third[0]] == ["red", "blue", "red"]
    assert first[1] == second[1] != third[1]


def test_nothing_is_loaded_while_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(**_: object) -> None:
        raise AssertionError("loaded too early")

    monkeypatch.setattr(image, "clip_encoder", load)
    clip_similarity()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"against": "caption"}, "text, rendered_image"),
        ({"against": "rendered_image"}, "belong together"),
        ({"renderer": "grpo_mmpc.nano.renderer:NanoRenderer"}, "belong together"),
        ({"floor": 1.0}, "floor"),
        (
            {"against": "rendered_image", "renderer": "no_such_module:Renderer"},
            "cannot be loaded: ModuleNotFoundError: No module named",
        ),
        ({"against": "rendered_image", "renderer": "grpo_mmpc.nano.renderer"}, "for your own write module:factory"),
        (
            {"against": "rendered_image", "renderer": "no_such_package.nano:Renderer"},
            "cannot be loaded: ModuleNotFoundError: No module named",
        ),
        ({"against": "rendered_image", "renderer": "nono"}, "unknown renderer 'nono'"),
        (
            {"against": "rendered_image", "renderer": "grpo_mmpc.nano.renderer:Renderers"},
            "has no attribute 'Renderers'",
        ),
        ({"against": "rendered_image", "renderer": "nano", "renderer_kwargs": {"device": "cpu"}}, "'device'"),
        ({"renderer_kwargs": {"device": "cuda:1"}}, "belong together"),
    ],
)
def test_wrong_kwargs_are_refused_while_building(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        clip_similarity(**kwargs)


def test_a_renderer_that_is_no_factory_is_named(renderer: str) -> None:
    with pytest.raises(RewardError, match="fake_renderer_module:not_callable"):
        clip_similarity(against="rendered_image", renderer="fake_renderer_module:not_callable")


def test_real_images_are_encoded_while_the_policy_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    class Encoder:
        def image_image(self, *, image_paths: list[str], other_paths: list[str]) -> None:
            asked.append(image_paths)
            assert other_paths == image_paths

    monkeypatch.setattr(image, "clip_encoder", lambda **_: Encoder())
    prepare = clip_similarity().prepare
    assert prepare is not None
    prepare(image_paths=["/a.png", None, "/b.png", "/a.png"], tasks=["image_to_text"] * 4, references=["x"] * 4)
    prepare(image_paths=[None])
    assert asked == [["/a.png", "/b.png"]]
