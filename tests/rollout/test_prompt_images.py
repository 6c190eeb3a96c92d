"""Images of prompts: read once in the size that the processor makes of them, with its pixels."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from grpo_mmpc.config import ModelSection
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.rollout import prompts
from grpo_mmpc.rollout.prompts import load_prompt_image
from grpo_mmpc.utils.api_servers import png_data_url
from tests.training.tiny_families import write_model

SIDES = {"height": 112, "width": 112}
ROOM = {"min_pixels": 28 * 28, "max_pixels": 616 * 616}


def photo(path: Path, *, size: tuple[int, int]) -> str:
    """Write a photograph: colours that change slowly, and the noise of a camera."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse) + random.normal(0, 6, (size[1], size[0], 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return str(path)


@pytest.mark.parametrize(
    ("architecture", "options", "size", "scaled"),
    [
        ("qwen2_5_vl", ROOM, (1600, 1200), (700, 532)),  # 532 x 700 = 372,400 pixels, multiples of 28
        ("qwen2_5_vl", ROOM, (500, 90), (504, 84)),
        ("qwen2_5_vl", {"min_pixels": 112 * 112, "max_pixels": 616 * 616}, (50, 40), (140, 112)),  # enlarged
        ("gemma3", {}, (1600, 1200), (84, 84)),
        ("gemma3", {}, (30, 40), (84, 84)),
    ],
)
def test_the_processor_makes_the_same_pixels_of_a_scaled_image(tmp_path, architecture, options, size, scaled):
    processor = load_processor(ModelSection(name_or_path=f"nano:{architecture}", processor_kwargs=options))
    path = photo(tmp_path / "a.jpg", size=size)
    image = load_prompt_image(path, processor)
    assert image.size == scaled and image.filename == path
    with Image.open(path) as whole:
        expected, got = (processor.image_processor([shown] * 3, return_tensors="pt") for shown in (whole, image))
    assert expected.keys() == got.keys()
    for name in expected:
        assert torch.equal(torch.as_tensor(expected[name]), torch.as_tensor(got[name]))


def test_an_image_is_left_alone_where_a_scaled_one_would_be_scaled_again(tmp_path):
    # 84 x 84 pixels exactly: 84 x 56 is too small for a wide image, and would become 112 x 84.
    processor = load_processor(ModelSection(name_or_path="nano:qwen2_5_vl"))
    assert load_prompt_image(photo(tmp_path / "wide.jpg", size=(400, 300)), processor).size == (400, 300)
    assert load_prompt_image(photo(tmp_path / "square.jpg", size=(400, 400)), processor).size == (84, 84)


@pytest.mark.parametrize("size", [(900, 700), (500, 90), (50, 40), (300, 301)])
@pytest.mark.parametrize(
    "made",
    [
        lambda kinds: kinds.GotOcr2ImageProcessor(size=SIDES, crop_to_patches=True, min_patches=1, max_patches=1),
        lambda kinds: kinds.Gemma4ImageProcessor(max_soft_tokens=70),
        lambda kinds: kinds.SmolVLMImageProcessor(size={"longest_edge": 256}, max_image_size={"longest_edge": 128}),
        lambda kinds: kinds.Idefics3ImageProcessor(size={"longest_edge": 256}, max_image_size={"longest_edge": 128}),
        lambda kinds: kinds.CLIPImageProcessor(size={"shortest_edge": 112}, crop_size=SIDES),
        lambda kinds: kinds.LlavaImageProcessor(size={"shortest_edge": 112}, crop_size=SIDES),
        lambda kinds: kinds.SiglipImageProcessor(size=SIDES),
    ],
    ids=["internvl", "gemma4", "smolvlm", "idefics3", "clip", "llava", "siglip"],
)
def test_every_family_that_scales_first_makes_the_same_pixels_of_a_scaled_image(tmp_path, made, size):
    processor = SimpleNamespace(image_processor=made(transformers))
    path = photo(tmp_path / "a.jpg", size=size)
    image = load_prompt_image(path, processor)
    assert size != (900, 700) or image.size != size  # others may be left alone, as above
    with Image.open(path) as whole:
        expected, got = (processor.image_processor([shown], return_tensors="pt") for shown in (whole, image))
    for name in expected:
        assert torch.equal(torch.as_tensor(expected[name]), torch.as_tensor(got[name]))


@pytest.mark.parametrize("family", ["internvl", "llava_next"])
def test_an_image_is_left_alone_where_a_processor_cuts_it_into_tiles(tmp_path, family):
    processor = load_processor(ModelSection(name_or_path=str(write_model(family, tmp_path / "model"))))
    assert load_prompt_image(photo(tmp_path / "a.jpg", size=(400, 300)), processor).size == (400, 300)


def test_a_processor_that_also_shows_parts_of_an_image_gets_it_whole(tmp_path):
    section = ModelSection(name_or_path="nano:gemma3", processor_kwargs={"do_pan_and_scan": True})
    assert load_prompt_image(photo(tmp_path / "a.jpg", size=(400, 300)), load_processor(section)).size == (400, 300)


def test_an_image_is_decoded_once_for_each_size_it_is_shown_in(tmp_path, monkeypatch):
    read: list[Path] = []
    once = prompts.read_image
    monkeypatch.setattr(prompts, "read_image", lambda path, **folder: read.append(path) or once(path, **folder))
    path = photo(tmp_path / "a.jpg", size=(400, 400))
    small, large = (
        load_processor(ModelSection(name_or_path="nano:qwen2_5_vl", processor_kwargs={"min_pixels": 784} | most))
        for most in ({}, {"max_pixels": 200_704})
    )
    first = load_prompt_image(path, small)
    assert load_prompt_image(path, small) is first and len(read) == 1
    assert (first.size, load_prompt_image(path, large).size, len(read)) == ((84, 84), (392, 392), 2)


def test_a_request_with_a_photo_of_twelve_megapixels_is_below_a_megabyte(tmp_path):
    processor = load_processor(ModelSection(name_or_path="nano:qwen2_5_vl", processor_kwargs=ROOM))
    image = load_prompt_image(photo(tmp_path / "a.jpg", size=(4000, 3000)), processor)
    assert 200_000 < len(png_data_url(image)) < 1_000_000
