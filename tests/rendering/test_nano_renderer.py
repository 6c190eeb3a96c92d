import numpy as np
import pytest
from PIL import ImageChops

from grpo_mmpc.nano.drawing import draw
from grpo_mmpc.nano.items import sample_items
from grpo_mmpc.nano.renderer import NanoRenderer
from nano_weights.texts import image_prompt


def same(left, right):
    return left.size == right.size and ImageChops.difference(left, right).getbbox() is None


def test_a_perfect_prompt_gives_the_catalogue_image():
    items = sample_items(num_items=90, seed=8)
    images = NanoRenderer().render([image_prompt(i.attributes) for i in items], seeds=[i.jitter for i in items])
    assert all(same(image, draw(i.attributes, jitter=i.jitter)) for image, i in zip(images, items, strict=True))


def test_one_wrong_word_moves_the_image_away():
    def distance(a, b):
        return np.square(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean()

    real = draw({"type": "kettle", "color": "red"}, jitter=1)
    right, wrong = NanoRenderer().render(["a red kettle", "a green kettle"], seeds=[1, 1])
    assert distance(real, right) == 0 < distance(real, wrong)


def test_images_come_in_the_order_of_the_prompts_and_only_empty_ones_fail():
    images = NanoRenderer().render(["a red mug", " \n", "something nice", ""], seeds=[0, 0, 0, 0])
    assert [image is None for image in images] == [False, True, False, True]
    assert same(images[0], draw({"type": "mug", "color": "red"}, jitter=0))
    assert same(images[2], draw({}, jitter=0))  # no product: a blob, as a real model also draws something


def test_the_same_prompt_and_seed_give_the_same_image():
    first, second, third = NanoRenderer().render(["a blue kite"] * 3, seeds=[5, 5, 6])
    assert same(first, second)
    assert not same(first, third)


def test_the_size_is_the_side_in_pixels():
    (image,) = NanoRenderer(size=224).render(["a blue kite"], seeds=[0])
    assert image.size == (224, 224)


def test_a_missing_seed_is_an_error():
    with pytest.raises(ValueError, match="found 2 prompts and 1 seeds"):
        NanoRenderer().render(["a", "b"], seeds=[0])
