"""Records of the recommendation benchmark.

Users and items are positions ``0 .. U-1`` and ``0 .. I-1`` everywhere below the catalogue.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

Mode = Literal["corrected", "paper"]
"""``paper`` reproduces the official protocol with its flaws."""
MONITOR = "recall@20"
"""Chooses the epoch and the grid point."""
Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = ("text", "image")
MODALITY_WORDS = {"text": "titles", "image": "images", "both": "titles and images"}
"""Display names of what is missing."""
FIELDS: dict[Modality, str] = {"text": "title", "image": "image"}
"""The fields of a catalogue that hold the modalities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The pairs of users and items they took, each once, by user, then time (``[N]`` each)."""

    users: Ints
    items: Ints

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The interactions of one category, split in time for each user."""

    user_ids: tuple[str, ...]
    """Position -> identifier."""
    item_ids: tuple[str, ...]
    """Position -> identifier of the catalogue; every item that is ranked."""
    train: Pairs
    validation: Pairs
    test: Pairs

    @property
    def num_users(self) -> int:
        """The number of users, U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """The number of items, I."""
        return len(self.item_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFeatures:
    """The features of items that a recommender gets; a modality that is left out is None.

    An all-zero row is an item of which nothing is known in that modality.
    """

    text: Floats | None = None
    """``[I, D_text]``, finite."""
    image: Floats | None = None
    """``[I, D_image]``, finite."""

    @property
    def given(self) -> dict[Modality, Floats]:
        """The modalities that are not left out, text first."""
        both: dict[Modality, Floats | None] = {"text": self.text, "image": self.image}
        return {modality: values for modality, values in both.items() if values is not None}

    @property
    def joined(self) -> Floats | None:
        """Those modalities side by side, ``[I, F]``; None without any."""
        return np.concatenate(list(self.given.values()), axis=1) if self.given else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """The settings of a training; see ``RecommenderTrainingSection``."""

    max_epochs: int
    patience: int
    """Evaluations without a better score after which training stops; there is one after every
    epoch."""
    batch_size: int
    learning_rate: float


def named(positions: Sequence[int], item_ids: Sequence[str] | None) -> str:
    """Name the first few items, by identifier where known, and how many more there are."""
    shown = ", ".join(item_ids[i] if item_ids is not None else f"item {i}" for i in positions[:5])
    return shown if len(positions) <= 5 else f"{shown} and {len(positions) - 5} more"
