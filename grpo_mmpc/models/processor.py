"""The processor of a policy; what a model family does with images: tokens, counts, attention."""

from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.models.adapter_folder import refuse_adapter_as_model
from grpo_mmpc.models.option_checks import unknown_processor_options
from grpo_mmpc.models.policy import cannot_load
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import resolve_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grpo_mmpc.config import ModelSection

_IMAGE_TOKENS = (
    "image_token_id",
    "image_token_index",
    "video_token_id",
    "audio_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "boi_token_index",
    "eoi_token_index",
)
"""Names that model configurations have for tokens with a meaning to the vision tower."""


def load_processor(section: "ModelSection", *, chat_template_kwargs: "Mapping[str, Any] | None" = None) -> Any:
    """Load the processor of the base model, padding on the left as generation needs.

    Args:
        section: The base model.
        chat_template_kwargs: TRL passes them to ``apply_chat_template`` in training; here they hold
            for every caller, so that evaluation asks what training asks.

    Raises:
        TrainingError: It cannot be loaded; says from where.
        AdapterError: ``model.name_or_path`` is an adapter.
    """
    refuse_adapter_as_model(section.name_or_path)
    ensure_importable()
    # heavy: imported on use
    from transformers import AutoProcessor

    source = resolve_model(section.name_or_path)
    try:
        processor = AutoProcessor.from_pretrained(source, **section.processor_kwargs)
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        raise TrainingError(cannot_load("processor", section.name_or_path, source, error)) from error
    if not hasattr(processor, "tokenizer"):
        raise TrainingError(
            f"model.name_or_path={section.name_or_path!r} has no image processor; expected a multimodal model such as "
            "Qwen2.5-VL or Gemma-3"
        )
    for key, problem in unknown_processor_options(processor, section.processor_kwargs):
        raise TrainingError(f"{key}: {problem}")
    processor.tokenizer.padding_side = "left"
    if chat_template_kwargs:
        render = processor.apply_chat_template
        processor.apply_chat_template = lambda *args, **kwargs: render(*args, **{**chat_template_kwargs, **kwargs})
    if section.image_attention is not None:
        _set_image_attention(processor, section.image_attention)
    return processor


def image_attention(section: "ModelSection", processor: Any) -> str | None:
    """Return how image tokens attend (``bidirectional``, ``causal``); None without a choice."""
    return (section.image_attention or "bidirectional") if _has_image_attention(processor) else None


def _set_image_attention(processor: Any, attention: str) -> None:
    """Choose what image tokens see, where a model lets us.

    Gemma-3 builds its mask from the token types that its processor returns: tokens of type image
    see each other in both directions. A processor that marks none of them makes the mask causal, in
    training and in generation alike.
    """
    if not _has_image_attention(processor):
        raise TrainingError(
            f"model.image_attention={attention!r} is for Gemma-3; {type(processor).__name__} has one way only, "
            "remove it"
        )
    if attention == "causal":
        processor.create_mm_token_type_ids = lambda input_ids: [[0] * len(row) for row in input_ids]


def _has_image_attention(processor: Any) -> bool:
    return type(processor).__name__ == "Gemma3Processor"


def image_token_id(model_config: Any) -> int:
    """Return the id of the token that stands for one image feature in a prompt."""
    return int(model_config.image_token_id)


def context_length(model_config: Any) -> int | None:
    """Return how many tokens a model takes, prompt and completion together; None if unknown."""
    length = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def num_image_features(inputs: "Mapping[str, Any]", processor: Any) -> int | None:
    """Count the features of a prompt's images; each takes the place of one image token.

    None for a family whose count is not known here: the model itself refuses another number.
    """
    if "pixel_values" not in inputs:
        return 0
    if "image_grid_thw" in inputs:  # Qwen-VL: patches, merged merge_size x merge_size
        return int(inputs["image_grid_thw"].prod(dim=1).sum()) // int(processor.image_processor.merge_size) ** 2
    if _has_image_attention(processor):  # Gemma-3: a fixed number per image
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
