"""Loads the encoders that metrics need; one that cannot be had leaves its metrics unscored, with the reason."""

from collections.abc import Callable, Mapping
from typing import Any

from grpo_mmpc.errors import ScoringError


def load_encoders(options: Mapping[str, Mapping[str, Any] | None]) -> tuple[dict[str, Any], dict[str, str]]:
    """Encoders by name, and why others are missing.

    Args:
        options: Arguments by name (``bertscore``, ``clip``, ``sentence``, ``dinov2``, ``lpips``,
            ``inception``); None is one that is not wanted.
    """
    from grpo_mmpc import encoders as scoring

    loaders: dict[str, Callable[..., Any]] = {
        "bertscore": scoring.bertscore_encoder,
        "clip": scoring.clip_encoder,
        "sentence": scoring.sentence_encoder,
        "dinov2": scoring.dinov2_encoder,
        "lpips": scoring.lpips_scorer,
        "inception": scoring.inception_encoder,
    }
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, arguments in options.items():
        if arguments is None:
            missing[name] = "switched off in the recipe"
            continue
        try:
            found[name] = loaders[name](**arguments)
        except (OSError, ValueError, TypeError, ScoringError) as error:
            missing[name] = " ".join(str(error).split())
    return found, missing
