"""Images that several readers of one process share: rendered once, held up to a number of bytes."""

import threading
from typing import Any

import pytest
from PIL import Image

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.rendering import shared
from grpo_mmpc.rendering.shared import Renders, shared_renders

PLAIN = "tests.rendering.own_renderers:PlainRenderer"


class Counting:
    """Renders one pixel for each letter, and counts."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, int]]] = []

    def render(self, prompts: list[str], *, seeds: list[int]) -> list[Image.Image | None]:
        self.calls.append(list(zip(prompts, seeds, strict=True)))
        return [Image.new("RGB", (len(prompt), 1)) if prompt else None for prompt in prompts]


def test_equal_requests_are_rendered_once_in_one_call_and_remembered() -> None:
    renderer = Counting()
    renders = Renders(renderer)
    images = renders.images(["a", "bb", "a", "a", ""], seeds=[1, 1, 1, 2, 1])
    assert [image and image.width for image in images] == [1, 2, 1, 1, None]
    assert images[0] is images[2]
    again = renders.images(["", "bb", "ccc"], seeds=[1, 1, 1])
    assert again[0] is None and again[1] is images[1]
    # A failed render is remembered like any other; only the new one is asked for.
    assert renderer.calls == [[("a", 1), ("bb", 1), ("a", 2), ("", 1)], [("ccc", 1)]]


def test_images_are_held_up_to_a_number_of_bytes() -> None:
    renderer = Counting()
    renders = Renders(renderer, max_bytes=6 * 3)  # six RGB pixels
    for prompt in ("aaa", "bbb", "ccc", "bbb", "aaa"):  # "ccc" pushes "aaa" out
        renders.images([prompt], seeds=[0])
    assert [call[0][0] for call in renderer.calls] == ["aaa", "bbb", "ccc", "aaa"]


def test_two_threads_that_want_the_same_image_render_it_once() -> None:
    renderer = Counting()
    renders = Renders(renderer)
    threads = [threading.Thread(target=renders.images, args=(["a", "b"],), kwargs={"seeds": [0, 0]}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert renderer.calls == [[("a", 0), ("b", 0)]]


@pytest.mark.parametrize(("answer", "message"), [([], "0 images for 1"), (["a.png"], "gave a str")])
def test_a_renderer_that_breaks_its_contract_is_named(answer: list[Any], message: str) -> None:
    class Broken:
        def render(self, prompts: list[str], *, seeds: list[int]) -> list[Any]:
            return answer

    with pytest.raises(EvaluationError, match=f"renderer Broken gave.*{message.removeprefix('gave ')}"):
        Renders(Broken()).images(["a"], seeds=[0])


def test_a_renderer_is_built_once_for_each_set_of_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_shared", {})
    first = shared_renders(PLAIN, {"size": 4, "style": "bold"})
    assert shared_renders(PLAIN, {"style": "bold", "size": 4}) is first
    assert shared_renders(PLAIN, {"size": 4}) is not first


def test_a_short_name_and_its_full_path_are_one_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_shared", {})
    assert shared_renders("nano", {}) is shared_renders("grpo_mmpc.nano.renderer:NanoRenderer", {})
