"""Prompt rows as chat messages with their images, and as the tensors that a model takes."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue import read_image
from grpo_mmpc.types import PromptRow

if TYPE_CHECKING:
    from PIL.Image import Image


@lru_cache(maxsize=256)
def load_prompt_image(path: str) -> "Image":
    """Read an image as RGB; the last 256 stay decoded, since a group shows one to all rollouts."""
    file = Path(path)
    return read_image(file, folder=file.parent)


def conversation(row: PromptRow) -> list[dict[str, Any]]:
    """Return the chat messages of a row with the image itself in place of its placeholder."""
    return [
        {"role": message["role"], "content": [_content_part(part, row) for part in message["content"]]}
        for message in row.messages
    ]


def _content_part(part: dict[str, Any], row: PromptRow) -> dict[str, Any]:
    if part["type"] != "image":
        return {"type": "text", "text": part["text"]}
    if row.prompt_image_path is None:
        raise ValueError(f"prompt {row.prompt_id!r} has an image placeholder and no image")
    return {"type": "image", "image": load_prompt_image(row.prompt_image_path)}


def model_inputs(rows: Sequence[PromptRow], processor: Any, *, device: Any) -> dict[str, Any]:
    """Return prompts as a model takes them: token ids [B, L], padded on the left, and images."""
    encoded = processor.apply_chat_template(
        [conversation(row) for row in rows],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    return {name: tensor.to(device) for name, tensor in encoded.items()}
