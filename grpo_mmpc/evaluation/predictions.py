"""Predictions of any system, and the references that they are scored against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

UNCATEGORISED = "uncategorised"
"""Category of references that name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a system says of one item."""

    item_id: str
    prediction: str | None
    """None = malformed."""
    category: str | None = None
    prompt_known: bool = True
    """False where only the image is known, not the prompt it was rendered from: that is not
    malformed."""
    image: Path | None = None
    """Image rendered from the prediction."""
    completion: str | None = None
    """As the model wrote it, where that is known."""
    format: str | None = None
    """See ``ParsedCompletion``."""
    is_nan: bool = False
    """True if the official script takes the title for missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Every prediction of one system."""

    source: Path
    by_item: Mapping[str, Prediction]
    is_whole: bool = False
    """True if every item that was asked is here, so that further references were never asked."""
    has_prompts: bool = True
    """False where only images are known, not the prompts they were rendered from."""
    has_images: bool = False
    """True if the absence of an item's image means that its render failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The true values of one item."""

    item_id: str
    text: str | None
    """The true text, or where an image is asked for the title, with which that is compared; None =
    unknown."""
    more: Sequence[str] = ()
    """Further texts that are as right as ``text``."""
    category: str = UNCATEGORISED
    attributes: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    """Absolute path of the real image."""
    group: str | None = None
    """The group of items that it hangs together with; None where it stands alone."""
