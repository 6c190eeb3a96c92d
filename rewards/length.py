"""Rewards for the length of a completion."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from grpo_mmpc.encoders.loading import load
from grpo_mmpc.errors import RewardError, ScoringError
from grpo_mmpc.metrics.text import words
from grpo_mmpc.rewards.declaration import Reward
from grpo_mmpc.utils.model_paths import NO_QUESTION, resolve_model

from .batches import ScoreTexts

UNITS = ("characters", "words", "tokens")
IMAGE_PROMPT_TOKENS = 77
"""Tokens that a CLIP text encoder reads, start and end included; the text_to_image task asks for no
more."""


def length_band(*, low: int = 20, high: int = 200, unit: str = "characters", tokenizer: str | None = None) -> Reward:
    """Score 1 for a text whose length lies within [low, high], falling in a straight line outside.

    Below, the score is the share of ``low`` that is there; above, it reaches 0 at twice ``high``.
    The default is a title of 20 to 200 characters, the most that Amazon allows.

    Range: [0, 1]. Needs: nothing, or a tokenizer for tokens. Cost: 0.03 ms for 64 completions, 0.2
    ms in words, 3 ms in tokens.

    Gamed by: padding, with anything; it says nothing about the content.

    Args:
        low: Least length with the full score.
        high: Greatest length with the full score.
        unit: ``characters`` (code points), ``words`` (as in ``token_f1``) or ``tokens`` (without
            special ones).
        tokenizer: Hub name, local folder, or an embedded model such as ``nano:qwen2_5_vl``; for
            tokens only.

    Raises:
        RewardError: The band is empty, the unit unknown, or a tokenizer missing, not needed or not
            known.

    Example:
        >>> length_band(low=2, high=4, unit="words")(predictions=["bag", "red bag", "a b c d e"])
        [0.5, 1.0, 0.75]
    """
    if not 0 <= low <= high or high == 0:
        raise RewardError(f"length_band wants 0 <= low <= high and high above 0, found low={low}, high={high}")
    if unit not in UNITS:
        raise RewardError(f"unit must be one of {', '.join(UNITS)}, found {unit!r}")
    if (unit == "tokens") != (tokenizer is not None):
        raise RewardError(
            f"unit: tokens and tokenizer: NAME belong together; found unit={unit!r}, tokenizer={tokenizer!r}"
        )
    length: Callable[[str], int] = len if unit == "characters" else _num_words
    if tokenizer is not None:
        length = partial(_num_tokens, _tokenizer_folder(tokenizer), special=False)
    return Reward(
        score=ScoreTexts(_Band(length=length, low=low, high=high)),
        value_range=(0.0, 1.0),
        targets=("text", "image"),
        needs=() if tokenizer is None else ("tokenizer",),
    )


def image_prompt_limit(*, tokenizer: str = "openai/clip-vit-base-patch32") -> Reward:
    """Score 1 for an image prompt of up to CLIP's 77 tokens, falling to 0 at twice as many.

    Special tokens count, as they do in the encoder. The image shows nothing that stands behind the
    limit.

    Range: [0, 1]. Needs: a CLIP tokenizer (no weights). Cost: 3 ms for 64 completions.

    Gamed by: short prompts, whatever they say; it carries no signal once all prompts fit.

    Args:
        tokenizer: Hub name or local folder of a CLIP, or ``nano:clip``.

    Raises:
        RewardError: There is no such embedded tokenizer.
    """
    length = partial(_num_tokens, _tokenizer_folder(tokenizer), special=True)
    return Reward(
        score=ScoreTexts(_Band(length=length, low=0, high=IMAGE_PROMPT_TOKENS)),
        value_range=(0.0, 1.0),
        targets=("image",),
        needs=("tokenizer",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Band:
    length: Callable[[str], int]
    low: int
    high: int

    def __call__(self, prediction: str) -> float:
        length = self.length(prediction)
        if length < self.low:
            return length / self.low
        return max(0.0, 1.0 - max(0, length - self.high) / self.high)


def _num_words(text: str) -> int:
    return len(words(text))


def _num_tokens(folder: str, text: str, *, special: bool) -> int:
    return len(_load_tokenizer(folder)(text, add_special_tokens=special, verbose=False)["input_ids"])


def _tokenizer_folder(name: str) -> str:
    try:
        return resolve_model(name)
    except ScoringError as error:
        raise RewardError(str(error)) from error


@cache
def _load_tokenizer(folder: str) -> Any:
    def from_pretrained() -> Any:
        from transformers import AutoTokenizer  # heavy: imported on use

        return AutoTokenizer.from_pretrained(folder, **NO_QUESTION)

    return load("tokenizer", folder, from_pretrained)
