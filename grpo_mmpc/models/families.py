"""Everything that tells one family of models from another.

Any ``AutoModelForImageTextToText`` that TRL and vLLM take runs by ``model.name_or_path`` alone.
Classes, chat templates, pixel limits and the blocks that FSDP wraps come from the model's own
folder. What follows is what the folders do not say in one way.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.utils.model_paths import NO_QUESTION, resolve_model

if TYPE_CHECKING:
    from grpo_mmpc.config import ModelSection

RUN = "Qwen2-VL to Qwen3.5, Gemma-3, Gemma-4, InternVL, LLaVA, LLaVA-NeXT, SmolVLM, Idefics3"
"""Families of which tiny random models were trained."""
LANGUAGE = ("language_model", "text_model")
"""Names that models have for their language model, below ``model.``."""
LANGUAGE_LAYERS = r"'.*(language_model|text_model).*\.(q|k|v|o|gate|up|down)_proj'"
"""The ``adapter.target_modules`` of the recipes."""
TOWER = ("visual", "vision_tower", "vision_model", "multi_modal_projector", "connector", "embed_vision")
"""Modules whose adapters vLLM serves with ``enable_tower_connector_lora``, and ignores without."""
HEAD = ("lm_head", "embed_tokens")
"""Modules whose adapters vLLM ignores or refuses."""
PROMPTS_AS_THEY_ARE = {"padding": False}
"""Options of every prompt in training: TRL takes every token that a processor returns for one of
the prompt, and Gemma-4's pads by default."""
OF_CONFIG = ("revision", "trust_remote_code", "token", "cache_dir", "subfolder")
"""Keys of ``model.init_kwargs`` that say where the configuration is, and whether its code runs."""

_IMAGE_TOKENS = (
    "image_token_id",
    "image_token_index",
    "video_token_id",
    "audio_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "boi_token_index",
    "eoi_token_index",
    "boi_token_id",
    "eoi_token_id",
    "boa_token_id",
    "eoa_token_index",
)
"""Names that model configurations have for tokens with a meaning to a tower."""


def model_config(section: "ModelSection", **loading: Any) -> Any:
    """Load the configuration of the base model; ``loading`` goes to ``from_pretrained``."""
    from transformers import AutoConfig  # heavy: imported on use

    options = {name: section.init_kwargs[name] for name in OF_CONFIG if name in section.init_kwargs}
    return AutoConfig.from_pretrained(resolve_model(section.name_or_path), **NO_QUESTION | options | loading)


def image_attention(section: "ModelSection", processor: Any) -> str | None:
    """Return how image tokens attend (``bidirectional``, ``causal``); None without a choice."""
    return (section.image_attention or "bidirectional") if _has_image_attention(section, processor) else None


def set_image_attention(section: "ModelSection", processor: Any) -> None:
    """Choose what image tokens see, where a recipe asks for it.

    Gemma builds its mask from the token types that its processor returns: tokens of type image see
    each other in both directions. A processor that marks none of them makes the mask causal, in
    training and in generation alike.

    Raises:
        TrainingError: The model has one way only.
    """
    if section.image_attention is None:
        return
    if not _has_image_attention(section, processor):
        raise TrainingError(
            f"model.image_attention={section.image_attention!r} is for Gemma-3 and the larger Gemma-4; "
            f"{type(processor).__name__} of {section.name_or_path} has one way only, remove it"
        )
    if section.image_attention == "causal":
        processor.create_mm_token_type_ids = lambda input_ids: [[0] * len(row) for row in input_ids]


def _has_image_attention(section: "ModelSection", processor: Any) -> bool:
    kind = type(processor).__name__
    if kind != "Gemma4Processor":
        return kind == "Gemma3Processor"
    return bool(model_config(section).get_text_config().use_bidirectional_attention == "vision")


_SCALES_FIRST = ("Gemma3", "GotOcr2", "CLIP", "Siglip", "Llava", "SmolVLM", "Idefics3")
"""Image processors, without that in their name, that begin with a ``resize`` to ``size``."""


def image_scaling(processor: Any) -> tuple[str, dict[str, Any]] | None:
    """Return how a processor scales images: a method of its image processor, and its arguments.

    None where it does not scale first, or also shows parts of the image: what it makes of an image
    that was scaled before is then not known here.
    """
    images: Any = getattr(processor, "image_processor", None)
    kind = type(images).__name__.removesuffix("ImageProcessor")
    if not getattr(images, "do_resize", False):
        return None
    scaling = {"resample": images.resample}
    if kind == "Qwen2VL":  # Qwen2-VL to Qwen3.5
        return "resize", scaling | {"size": images.size, "factor": images.patch_size * images.merge_size}
    if kind == "Gemma4":
        pooled = images.pooling_kernel_size
        sizes = {"patch_size": images.patch_size, "max_patches": images.max_soft_tokens * pooled**2}
        return "aspect_ratio_preserving_resize", scaling | sizes | {"pooling_kernel_size": pooled}
    has_tiles = getattr(images, "crop_to_patches", False) and images.max_patches > 1
    is_padded = kind == "Llava" and images.do_pad
    if kind not in _SCALES_FIRST or has_tiles or is_padded or getattr(images, "do_pan_and_scan", False):
        return None
    return "resize", scaling | {"size": images.size}


def image_token_id(model_config: Any) -> int:
    """Return the id of the token that stands for one image feature in a prompt."""
    return int(model_config.image_token_id)


def context_length(model_config: Any) -> int | None:
    """Return how many tokens a model takes, prompt and completion together; None if unknown."""
    length = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def num_image_features(inputs: Mapping[str, Any], processor: Any) -> int | None:
    """Count the features of a prompt's images; each takes the place of one image token.

    None for a family whose count is not known here: the model itself refuses another number.
    """
    if "pixel_values" not in inputs:
        return 0
    if "image_grid_thw" in inputs:  # Qwen-VL: patches, merged merge_size x merge_size
        return int(inputs["image_grid_thw"].prod(dim=1).sum()) // int(processor.image_processor.merge_size) ** 2
    if type(processor).__name__ == "Gemma3Processor":  # a fixed number per image
        return int(inputs["pixel_values"].shape[0]) * int(processor.image_seq_length)
    return None


def suppressed_token_ids(processor: Any, model_config: Any) -> list[int]:
    """Return the tokens that a completion must not contain: placeholders of images and padding.

    A sampled image token would ask the policy for image features that do not exist. A padding token
    that also ends completions stays.
    """
    tokenizer = processor.tokenizer
    ends = getattr(model_config.get_text_config(), "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *([ends] if isinstance(ends, int) else ends or ())}
    special = {getattr(model_config, name, None) for name in _IMAGE_TOKENS} | {tokenizer.pad_token_id}
    return sorted(token for token in special - ends if token is not None and token < len(tokenizer))
