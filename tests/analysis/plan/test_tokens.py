"""Tokens of an image by the rule of its family, as Transformers' own processors count them."""

import pytest

from grpo_mmpc.analysis.plan.tokens import image_tokens, most_image_tokens
from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()
SIZES = ((84, 84), (616, 616), (1500, 1000), (3024, 4032), (200, 1800), (28, 2000))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("model_type", "patch"), [("qwen2_5_vl", 14), ("qwen3_vl", 16)])
@pytest.mark.parametrize("limits", [{}, {"min_pixels": 50176, "max_pixels": 401408}])
def test_qwen_vl(size: tuple[int, int], model_type: str, patch: int, limits: dict[str, int]) -> None:
    from transformers import Qwen2VLImageProcessor

    height, width = size
    given = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 16384, **limits}
    processor = Qwen2VLImageProcessor(patch_size=patch, **given)
    expected = processor.get_number_of_image_patches(height, width, {}) // processor.merge_size**2
    counted = image_tokens(model_type, limits, height=height, width=width)
    assert counted == expected
    if limits:
        assert counted is not None and counted <= (most_image_tokens(model_type, limits) or 0)


@pytest.mark.parametrize(("size", "tokens"), [((1000, 1000), 405), ((500, 1000), 243), ((1000, 300), 243)])
def test_smolvlm_in_tiles_of_384_pixels_and_whole(size: tuple[int, int], tokens: int) -> None:
    """At 768 pixels a side: 2 x 2 tiles, 1 x 2, 2 x 1, and the whole image, 81 tokens each."""
    from transformers import SmolVLMImageProcessor

    height, width = size
    options = {"size": {"longest_edge": 768}}
    processor = SmolVLMImageProcessor(**options, max_image_size={"longest_edge": 384})
    assert processor.get_number_of_image_patches(height, width, {})[0] * 81 == tokens
    assert image_tokens("smolvlm", options, height=height, width=width) == tokens


@pytest.mark.parametrize(("options", "tokens"), [({"max_patches": 1}, 256), ({}, 3328)])
def test_internvl_takes_256_a_tile_and_the_whole_image_beside_several(options: dict[str, int], tokens: int) -> None:
    assert most_image_tokens("internvl", options) == tokens


def test_gemma_3_always_takes_256_and_an_unknown_family_has_no_number() -> None:
    assert image_tokens("gemma3", {}, height=2000, width=300) == 256
    assert image_tokens("llava", {"image_seq_length": 16}, height=2000, width=300) == 16
    assert image_tokens("my_own", {}, height=2000, width=300) is None
