"""Records of the recommendation benchmark.

Users and items are positions ``0 .. U-1`` and ``0 .. I-1`` everywhere below the catalogue.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = ("text", "image")
MODALITY_WORDS = {"text": "titles", "image": "images", "both": "titles and images"}
"""How they are called for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Users and the items they took, each pair once, sorted by user and then by time (``[N]`` each)."""

    users: Ints
    items: Ints

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Interactions of one category, split in time for each user."""

    user_ids: tuple[str, ...]
    """Position -> identifier."""
    item_ids: tuple[str, ...]
    """Position -> identifier of the catalogue; every item that is ranked."""
    train: Pairs
    validation: Pairs
    test: Pairs

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.item_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFeatures:
    """What a recommender is told of the items; a modality is None where it is left out altogether.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How a recommender is trained; see ``RecommenderTrainingSection``."""

    max_epochs: int
    patience: int
    """Evaluations without a better score after which training stops; there is one after every
    epoch."""
    batch_size: int
    learning_rate: float
