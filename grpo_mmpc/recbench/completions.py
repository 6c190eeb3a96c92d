"""Completions as features: titles and images for masked items, encoded like the true ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_mmpc.recbench.features import image_features, rows_without_vector, text_features
from grpo_mmpc.recbench.records import MODALITIES, Floats, Modality
from grpo_mmpc.recbench.settings import RecBenchSection
from grpo_mmpc.utils.console import Progress

COMPLETED = "completed:"
"""Stands before the name of a completion where fills are named."""
UNREADABLE = "its image cannot be read"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """The vectors that one policy or completed catalogue gives the items it fills.

    Made by ``encoded_completion``: each of the item's own completion, and of nothing else.
    """

    name: str
    vectors: Mapping[Modality, Floats]
    """``[I, D]``; NaN where there is nothing."""
    lacking: Mapping[Modality, Sequence[str | None]]
    """``[I]``: why there is nothing, where that is known."""


def encoded_completion(
    settings: RecBenchSection,
    name: str,
    *,
    values: Mapping[Modality, Sequence[Any]],
    lacking: Mapping[Modality, Sequence[str | None]],
    progress: Progress | None = None,
) -> Completion:
    """Encode completions with the encoders of the benchmark.

    ``values`` are titles or image files ``[I]`` by completed modality, None where there is none;
    ``lacking`` says why, by modality.
    """
    vectors: dict[Modality, Floats] = {}
    reasons = {modality: list(lacking[modality]) for modality in MODALITIES if modality in lacking}
    if "text" in values:
        vectors["text"] = text_features(values["text"], settings.encoders.text, progress=progress)
    if "image" in values:
        encoder = settings.encoders.image
        vectors["image"] = image_features(values["image"], encoder, mode=settings.mode, progress=progress)
        for row in np.flatnonzero(rows_without_vector(vectors["image"])):
            if values["image"][row] is not None:
                reasons["image"][row] = UNREADABLE
    return Completion(name=name, vectors=vectors, lacking=reasons)
