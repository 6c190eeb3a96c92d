"""How many tokens a prompt takes: its image by the family's rule, its words by their length."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grpo_mmpc.tasks.task import Task

CHARACTERS_A_TOKEN = 3.5
"""Of English product texts and JSON: between 3.6 and 4.6 with the tokenizers of the recipes."""
_TEMPLATE = 24
"""Tokens that a chat template puts around a prompt."""
_TEXT = {"title": 40, "description": 250, "category": 6, "attributes": 60}
"""Tokens of a field of ordinary length."""
_PIXELS_A_SIDE = {"qwen2_vl": 28, "qwen2_5_vl": 28, "qwen3_vl": 32, "qwen3_5": 32}
"""Side of the square of pixels that becomes one token."""
_MIN_PIXELS, _MAX_PIXELS = 56 * 56, 28 * 28 * 16_384
_FIXED = {"gemma3": 256, "gemma4": 280, "llava": 576}
_SMOLVLM_TILE, _SMOLVLM_TOKENS = 384, 81
_INTERNVL_TOKENS, _INTERNVL_TILES = 256, 12


def image_tokens(model_type: str, options: Mapping[str, Any], *, height: int, width: int) -> int | None:
    """Return the tokens of one image; None for a family whose rule is not known here.

    Args:
        model_type: The model's.
        options: ``model.processor_kwargs``, which limit what an image may cost.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
    """
    if model_type in _PIXELS_A_SIDE:
        return _by_pixels(_PIXELS_A_SIDE[model_type], options, height=height, width=width)
    if model_type in _FIXED:
        return int(options.get("image_seq_length") or _FIXED[model_type])
    if model_type == "smolvlm":
        return _by_tiles(options, height=height, width=width)
    if model_type == "internvl":
        most = int(options.get("max_patches", _INTERNVL_TILES))
        return _INTERNVL_TOKENS * (most + (most > 1))
    return None


def prompt_tokens(task: Task, *, image: int, count: Callable[[str], int]) -> int:
    """Return about how many tokens a prompt of a task takes.

    Args:
        task: The task.
        image: Tokens of an image.
        count: Counts the tokens of a text, see ``counter``.
    """
    texts = sum(_TEXT.get(source, 0) for source in task.source)
    examples = sum(count(example.model_dump_json()) for example in task.examples)
    return _TEMPLATE + count(task.prompt) + texts + examples + image * task.shows_image * task.max_images


def counter(folder: Path | None) -> Callable[[str], int]:
    """Return what counts the tokens of a text: a model's tokenizer, or its length without one."""
    file = None if folder is None else folder / "tokenizer.json"
    if file is None or not file.is_file():
        return lambda text: math.ceil(len(text) / CHARACTERS_A_TOKEN)
    # heavy: imported on use
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text).ids)


def _by_pixels(side: int, options: Mapping[str, Any], *, height: int, width: int) -> int:
    """Qwen-VL keeps the aspect ratio, within limits of pixels, at whole squares."""
    least = int(options.get("min_pixels", _MIN_PIXELS))
    most = int(options.get("max_pixels", _MAX_PIXELS))
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    if rows * columns * side * side > most:
        scale = math.sqrt(height * width / most)
        rows, columns = (max(1, math.floor(length / scale / side)) for length in (height, width))
    elif rows * columns * side * side < least:
        scale = math.sqrt(least / (height * width))
        rows, columns = (math.ceil(length * scale / side) for length in (height, width))
    return rows * columns


def _by_tiles(options: Mapping[str, Any], *, height: int, width: int) -> int:
    """SmolVLM cuts an image that is scaled to its longest edge into tiles, and shows it whole."""
    longest = int((options.get("size") or {}).get("longest_edge", 4 * _SMOLVLM_TILE))
    scale = longest / max(height, width)
    rows, columns = (max(1, math.ceil(length * scale / _SMOLVLM_TILE)) for length in (height, width))
    return _SMOLVLM_TOKENS * (rows * columns + (rows * columns > 1))


def most_image_tokens(model_type: str, options: Mapping[str, Any]) -> int | None:
    """Return the tokens of the most expensive image that the options allow; None as above."""
    side = _PIXELS_A_SIDE.get(model_type)
    if side is not None:
        return int(options.get("max_pixels", _MAX_PIXELS)) // (side * side)
    return image_tokens(model_type, options, height=3000, width=3000)
