"""The definition of a metric: inputs, range, and the function that scores a list of items."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from grpo_mmpc.types import TargetKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image


T = TypeVar("T")

logger = logging.getLogger(__name__)

PER_ITEM = (
    *("predictions", "references", "more_references"),
    *("attributes", "real_images", "categories", "rendered_images"),
)
"""The fields of ``MetricInputs`` with one entry for each item; from the third on also with none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInputs:
    """N completions of one task over a whole split, with all that metrics read.

    TF-IDF fits its document frequencies on these references: score a split in one piece.
    """

    task: str
    target: TargetKind = "text"
    """What its answers are."""
    predictions: Sequence[str | None]
    """Parsed completions; None = malformed."""
    references: Sequence[str | None]
    """True texts; None or blank = unknown. Where images are asked for, the titles of the items."""
    more_references: Sequence[Sequence[str]] = ()
    """Further true texts of each item whose reference is known; empty sequence = none for any."""
    attributes: Sequence[Mapping[str, str]] = ()
    """Known facts by kind; empty sequence = none for any item."""
    real_images: Sequence[str | None] = ()
    """Absolute paths of the items' real images; None = unknown. Empty sequence = all unknown."""
    categories: Sequence[str] = ()
    """Category of each item, for metrics that compare sets; empty sequence = one set."""
    rendered_images: Sequence[str | None] = ()
    """Paths of images rendered from the predictions; None = not rendered, the worst answer."""
    bertscore: Any = None
    """An encoder of ``grpo_mmpc.encoders``, as the next five are; None leaves its metrics
    unscored."""
    sentence: Any = None
    clip: Any = None
    dino: Any = None
    lpips: Any = None
    inception: Any = None
    read_image: "Callable[[str], Image.Image] | None" = None
    """Reader of an image as RGB: ``grpo_mmpc.encoders.images.open_image``, which raises ImageError.
    Needed by the metrics of pixels (PSNR, SSIM, MSE, LPIPS); others then share what was opened."""
    failures: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Encoders that raised, under their names in ``evaluation.encoders``, with the reason."""
    memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Results that metrics of this set share, computed by the first that needs them."""

    def __post_init__(self) -> None:
        expected = len(self.predictions)
        for name in PER_ITEM:
            length = len(getattr(self, name))
            if length != expected and (length or name == "references"):
                raise ValueError(f"MetricInputs.{name} has {length} entries for {expected} predictions")

    @property
    def accepted(self) -> list[tuple[str, ...]]:
        """The true texts of each item, the first one first; empty where it is unknown."""
        more = self.more_references or [()] * len(self.references)
        return [accepted_texts(reference, others) for reference, others in zip(self.references, more, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One evaluation function."""

    name: str
    targets: tuple[TargetKind, ...]
    """The answers that it scores."""
    description: str
    """One line for reports."""
    score: Callable[[MetricInputs], list[float]]
    """One value per item, NaN = unscored."""
    worst: float = 0.0
    """Score of a malformed completion or a failed render; infinite where there is no worst value,
    and the description says how they count."""
    best: float = 1.0
    """Score of a perfect answer; below ``worst`` where lower is better."""
    statistics: "Callable[[MetricInputs], NDArray[np.float64]] | None" = None
    """Corpus-level metrics only: sufficient statistics [N, S]; a row of NaN = unscored."""
    aggregate: "Callable[[NDArray[np.float64]], NDArray[np.float64]] | None" = None
    """Corpus-level metrics only: values [...] from statistics summed over the scored items,
    [..., S]."""
    depends_on_other_answers: bool = False
    """An item's score depends on the answers to the others, so that no item may be left out."""
    of_set: Callable[[MetricInputs], float] | None = None
    """Only metrics of a set without values per item: the value of all items given; NaN = none."""

    @property
    def higher_is_better(self) -> bool:
        """True if better answers have greater scores."""
        return self.worst < self.best


def shielded(inputs: MetricInputs, encoder: str, call: Callable[[], T]) -> T | None:
    """Return what a call of an encoder gives; None from the first time on that it raises.

    A model of the user's may raise anything, and that costs the metrics of this encoder only.
    """
    if encoder in inputs.failures:
        return None
    try:
        return call()
    except Exception as error:
        inputs.failures[encoder] = " ".join(f"{type(error).__name__}: {error}".split())
        logger.warning("%s raised, so that its metrics are unscored: %s", encoder, inputs.failures[encoder])
        return None


def accepted_texts(reference: str | None, more: Sequence[str] | None) -> tuple[str, ...]:
    """Return an item's true texts, the first one first; empty where that is unknown."""
    return (reference, *filter(is_known, more or ())) if is_known(reference) else ()


def best_of(scores: Iterable[float | None]) -> float:
    """Return the score of an answer of which any reference may be right, from its score by each.

    That is the best of those that could be given; NaN if none could.
    """
    return max((score for score in scores if score is not None and not math.isnan(score)), default=math.nan)


def best_over_references(
    score: Callable[..., Sequence[float | None]], *, predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """Score N predictions, each by the best of its references, in one call.

    Args:
        score: Scores pairs, given as ``predictions`` and ``references``.
        predictions: N texts.
        references: The true texts of each, at least one.
    """
    repeated = [prediction for prediction, texts in zip(predictions, references, strict=True) for _ in texts]
    scores = iter(score(predictions=repeated, references=[text for texts in references for text in texts]))
    return [best_of(islice(scores, len(texts))) for texts in references]


def is_known(reference: str | None) -> TypeGuard[str]:
    """True for a reference that is there and not blank."""
    return reference is not None and bool(reference.strip())


def unscored(inputs: MetricInputs) -> list[float]:
    """Return NaN for every item."""
    return [math.nan] * len(inputs.predictions)
