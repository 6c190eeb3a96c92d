"""Completions as features: titles and images for masked items, encoded like the true ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.features import image_features, rows_without_vector, text_features
from grpo_mmpc.recbench.records import MODALITIES, Flags, Floats, Modality, named
from grpo_mmpc.recbench.settings import RecBenchSection
from grpo_mmpc.utils.console import Progress

COMPLETED = "completed:"
"""Stands before the name of a completion where fills are named."""
UNREADABLE = "its image cannot be read"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """The vectors that one policy or completed catalogue gives the items it fills.

    Made by ``encoded_completion``. An item's vector may be the true one only because the encoder
    made it of the item's own completion: ``encoded`` says of which items that holds, and a vector
    of another item is refused.
    """

    name: str
    vectors: Mapping[Modality, Floats]
    """``[I, D]``, read-only; NaN where there is nothing."""
    encoded: Mapping[Modality, Flags]
    """``[I]``: items whose own title or image was given to the encoder."""
    lacking: Mapping[Modality, Sequence[str | None]]
    """``[I]``: why there is nothing, where that is known."""

    def __post_init__(self) -> None:
        """Refuse vectors that no completion explains."""
        for modality, vectors in self.vectors.items():
            vectors.setflags(write=False)
            unexplained = np.flatnonzero(~rows_without_vector(vectors) & ~self.encoded[modality]).tolist()
            if unexplained:
                raise RecBenchError(
                    f"completion {self.name}: {len(unexplained)} items have a vector of {modality} without a "
                    f"completion that was encoded: {named(unexplained, None)}; make it with encoded_completion"
                )


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
    encoded = {
        modality: np.array([value is not None for value in given], dtype=bool) for modality, given in values.items()
    }
    reasons = {modality: list(lacking[modality]) for modality in MODALITIES if modality in lacking}
    if "text" in values:
        vectors["text"] = text_features(values["text"], settings.encoders.text, progress=progress)
    if "image" in values:
        encoder = settings.encoders.image
        vectors["image"] = image_features(values["image"], encoder, mode=settings.mode, progress=progress).values
        for row in np.flatnonzero(encoded["image"] & rows_without_vector(vectors["image"])):
            reasons["image"][row] = UNREADABLE
    return Completion(name=name, vectors=vectors, encoded=encoded, lacking=reasons)
