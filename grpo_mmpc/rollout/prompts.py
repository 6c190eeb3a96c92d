"""Prompt rows as chat messages with their images, as the tensors that a model takes, or refused."""

from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue import read_image
from grpo_mmpc.encoders.cache import EncodingCache
from grpo_mmpc.encoders.images import image_key
from grpo_mmpc.errors import first_line
from grpo_mmpc.models.families import image_scaling
from grpo_mmpc.types import PromptRow
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from PIL.Image import Image

_decoded: "EncodingCache[Hashable, Image]" = EncodingCache(max_bytes=512 * 2**20)


def load_prompt_image(path: str, processor: Any) -> "Image":
    """Read an image as RGB in the size that a processor makes of it, so that it costs no more.

    The last ones stay in memory: a group shows one to all its rollouts, and so does every epoch.
    ``filename`` of the image says where it is from.
    """
    key = image_key(path), repr(image_scaling(processor))
    image = _decoded.get(key)
    if image is None:
        image = _as_scaled_by(processor, read_image(Path(path), folder=Path(path).parent))
        image.filename = path  # type: ignore[attr-defined]
        _decoded.put(key, image, num_bytes=image.width * image.height * 3)
    return image


def _as_scaled_by(processor: Any, image: "Image") -> "Image":
    """Scale an image as a processor does, so that it finds nothing to scale and the same pixels.

    An image stays as it is where the processor would scale the scaled one once more: limits that
    leave no room for the image's shape do that.
    """
    scaling = image_scaling(processor)
    if scaling is None:
        return image
    # heavy: the processor has it loaded
    from PIL.Image import fromarray

    images = processor.image_processor
    method, arguments = scaling
    scale = partial(getattr(images, method), **arguments)
    scaled = scale(images.process_image(image).unsqueeze(0))  # [1, 3, H, W], of bytes
    if scale(scaled).shape != scaled.shape:
        return image
    return fromarray(scaled[0].permute(1, 2, 0).numpy())


def conversation(row: PromptRow, processor: Any) -> list[dict[str, Any]]:
    """Return the chat messages of a row with the image itself in place of its placeholder."""
    images = [load_prompt_image(path, processor) for path in row.shown_images]
    if len(images) != sum(part["type"] == "image" for message in row.messages for part in message["content"]):
        raise ValueError(f"prompt {row.prompt_id!r} has another number of image placeholders than images")
    return _filled(row.messages, images)


def _filled(messages: list[dict[str, Any]], images: "Sequence[Image]") -> list[dict[str, Any]]:
    left = iter(images)
    return [
        {
            "role": message["role"],
            "content": [
                {"type": "image", "image": next(left)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def plain_prompt(*, shows_image: bool) -> "tuple[list[dict[str, Any]], list[Image]]":
    """Return messages and images of a short prompt that any processor takes."""
    from PIL import Image

    images = [Image.new("RGB", (64, 64), "white")] if shows_image else []
    content = [*({"type": "image", "text": None} for _ in images), {"type": "text", "text": "."}]
    return [{"role": "user", "content": content}], images


def plain_inputs(processor: Any, *, device: Any) -> dict[str, Any]:
    """Return the tensors of one short prompt with an image, as any model here takes it."""
    return _encoded([_filled(*plain_prompt(shows_image=True))], processor, device=device)


def model_inputs(rows: Sequence[PromptRow], processor: Any, *, device: Any) -> dict[str, Any]:
    """Return prompts as a model takes them: token ids [B, L], padded on the left, and images."""
    return _encoded([conversation(row, processor) for row in rows], processor, device=device)


def _encoded(conversations: list[list[dict[str, Any]]], processor: Any, *, device: Any) -> dict[str, Any]:
    encoded = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    return {name: tensor.to(device) for name, tensor in encoded.items()}


def accepted_inputs(
    rows: Sequence[PromptRow], processor: Any, *, device: Any, max_tokens: int, context: int | None, fill: bool
) -> tuple[dict[str, Any] | None, list[Failure | None]]:
    """Return the tensors of the rows that can be completed, and the refusals of the others.

    Args:
        rows: B prompts.
        processor: The policy's.
        device: Of the tensors.
        max_tokens: Longest completion.
        context: Tokens of prompt and completion together that the model takes; None if unknown.
        fill: Put a plain prompt in the place of a refused one, so that the number of rows stays.

    Returns:
        Tensors (None if no row is left) and B refusals, None where there is none.
    """
    failed: Exception | None = None
    try:
        inputs = model_inputs(rows, processor, device=device)
        if context is None or inputs["input_ids"].shape[1] + max_tokens <= context:
            return inputs, [None] * len(rows)
    except Exception as error:  # processors, tokenizers and templates of others raise anything at all
        failed = error
    refusals = [refusal(row, processor, max_tokens=max_tokens, context=context) for row in rows]
    if failed is not None and not any(refusals):
        raise failed
    kept = [
        conversation(row, processor)
        if refused is None
        else _filled(*plain_prompt(shows_image=row.prompt_image_path is not None))
        for row, refused in zip(rows, refusals, strict=True)
        if refused is None or fill
    ]
    return _encoded(kept, processor, device=device) if kept else None, refusals


def refusal(row: PromptRow, processor: Any, *, max_tokens: int, context: int | None) -> Failure | None:
    """Return why a prompt cannot be completed, and what to do; None if it can.

    ``max_tokens`` is the longest completion, ``context`` the tokens of both together that model and
    engine take, None if unknown.
    """
    try:
        length = int(model_inputs([row], processor, device="cpu")["input_ids"].shape[1])
    except Exception as error:  # see accepted_inputs
        remedy = "replace or crop the image" if row.prompt_image_path else "correct the item's texts"
        return Failure(reason=f"the processor does not take it ({type(error).__name__}: {first_line(error)}); {remedy}")
    if context is None or length + max_tokens <= context:
        return None
    return Failure(reason=too_long(length, max_tokens=max_tokens, context=context))


def too_long(length: int, *, max_tokens: int, context: int) -> str:
    """Return the message for a prompt that leaves no room for its completion."""
    return (
        f"a prompt of {length} tokens and a completion of up to {max_tokens} exceed the context of {context}; shorten "
        "the item's texts, or lower model.processor_kwargs.max_pixels or the completion length (a vLLM takes more "
        "with rollout.engine.max_model_len)"
    )
