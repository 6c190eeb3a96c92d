"""The calibration of confidence: from the agreement of samples to the chance that a field is right.

Titled items are answered as if their title were missing; what the true title and the attributes say
of each stated field is what the agreement is fitted to.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist, fmean
from typing import NamedTuple

from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.metrics.fields import Fields, agrees, kind_of
from grpo_mmpc.utils.files import read_object, write_json
from grpo_mmpc.utils.hashing import number

CALIBRATION_FILE = "calibration.json"
"""In the completed catalogue, and usable for others by the same policy."""
LEAST = 30
"""Judged answers below which a kind is calibrated by all kinds together."""
ALL = ""
"""The key of all kinds together."""
_FOLDS = 5


class Judged(NamedTuple):
    """One field that an answer states, and whether it is right."""

    item_id: str
    kind: str
    agreement: float
    is_right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What agreement is worth, by kind of field."""

    policy: str
    samples: int
    items: int
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    """By kind: agreements in ascending order, and the chance of being right at each; between two of
    them it runs in a straight line. The empty kind is all of them together."""

    def probability(self, kind: str, agreement: float) -> float:
        """Return the chance that a field with that agreement is right, in [0, 1]."""
        import numpy as np  # heavy: imported on use

        shares, chances = self.curves.get(kind, self.curves[ALL])
        return float(np.interp(agreement, shares, chances))

    def write(self, folder: Path) -> None:
        """Write it into a completed catalogue."""
        write_json(folder / CALIBRATION_FILE, asdict(self), indent=2)


def read_calibration(path: Path, *, policy: str, samples: int) -> Calibration:
    """Read a calibration, of the same policy and number of samples.

    Raises:
        CatalogueError: It is none, or of another policy or number of samples.
    """
    content = read_object(path)
    try:
        calibration = Calibration(**content)
        calibration.probability(ALL, 1.0)
    except (TypeError, KeyError, ValueError) as error:
        raise CatalogueError(f"{path} is no calibration ({error}); make one with --calibrate") from error
    if (calibration.policy, calibration.samples) != (policy, samples):
        raise CatalogueError(
            f"{path} is of another policy or of {calibration.samples} samples, not {samples}; make one with --calibrate"
        )
    return calibration


def judge_fields(
    item_id: str,
    title: str,
    shares: Mapping[str, float],
    *,
    true_title: str,
    attributes: Mapping[str, str],
    fields: Fields,
) -> list[Judged]:
    """Judge each field that a title states by the item's attributes, else by its true title.

    ``shares`` are those of the samples that agree, by kind; see ``gate.agreement``.

    What neither of them speaks of cannot be judged and is left out.
    """
    stated, true = fields.stated(title), fields.stated(true_title)
    judged = []
    for kind, share in shares.items():
        known = [value for name, value in attributes.items() if kind_of(name) == kind_of(kind)]
        if kind in stated and (known or kind in true):
            is_right = (
                all(any(agrees(fact, kind, value) for value in known) for fact in stated[kind])
                if known
                else stated[kind] <= true[kind]
            )
            judged.append(Judged(item_id, kind, share, is_right))
    return judged


def fit(judged: Sequence[Judged], *, policy: str, samples: int) -> Calibration:
    """Fit isotonic curves, one for each kind with enough answers and one for all of them.

    Raises:
        CatalogueError: No field could be judged.
    """
    if not judged:
        raise CatalogueError(
            "no field of the answers could be judged; --calibrate needs items whose attributes or titles state a "
            "brand, a type, a colour or the like, and --samples"
        )
    kinds = by_kind(judged)
    return Calibration(
        policy=policy,
        samples=samples,
        items=len({one.item_id for one in judged}),
        curves={kind: _curve(rows) for kind, rows in kinds.items() if kind == ALL or len(rows) >= LEAST},
    )


def by_kind(judged: Iterable[Judged]) -> dict[str, list[Judged]]:
    """Return what was judged by its kind, all kinds together under ``ALL``."""
    kinds: defaultdict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        kinds[ALL].append(one)
        kinds[one.kind].append(one)
    return dict(kinds)


def _curve(rows: Sequence[Judged]) -> tuple[list[float], list[float]]:
    from sklearn.isotonic import IsotonicRegression  # heavy: imported on use

    # One right and one wrong answer more at each end: a few answers make nothing certain.
    shares = [0.0, 1.0, *(one.agreement for one in rows)]
    right = [0.5, 0.5, *(float(one.is_right) for one in rows)]
    model = IsotonicRegression(y_min=0.0, y_max=1.0).fit(shares, right)
    return [float(x) for x in model.X_thresholds_], [float(y) for y in model.y_thresholds_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """The answers whose confidence is at least a threshold."""

    threshold: float
    stated: int
    """All answers that state the field."""
    kept: int
    right: int
    interval: tuple[float, float]
    """See ``accuracy_interval``."""

    @property
    def accuracy(self) -> float:
        """The share of those kept that is right; NaN without any."""
        return self.right / self.kept if self.kept else math.nan


def held_out_probabilities(judged: Sequence[Judged]) -> list[float]:
    """Return the calibrated chance of each, by curves that were fitted without its item."""
    folds = [number(one.item_id) % _FOLDS for one in judged]
    fitted = {
        fold: fit(others, policy="", samples=0)
        for fold in set(folds)
        if (others := [one for one, of in zip(judged, folds, strict=True) if of != fold])
    }
    return [
        fitted[fold].probability(one.kind, one.agreement) if fold in fitted else math.nan
        for one, fold in zip(judged, folds, strict=True)
    ]


def selected(judged: Sequence[Judged], confidence: Sequence[float], thresholds: Iterable[float]) -> list[Selected]:
    """Return, for each threshold, how many answers it keeps and how many of them are right."""
    chosen = [
        (threshold, [one for one, value in zip(judged, confidence, strict=True) if value >= threshold])
        for threshold in thresholds
    ]
    return [
        Selected(
            threshold=threshold,
            stated=len(judged),
            kept=len(kept),
            right=sum(one.is_right for one in kept),
            interval=accuracy_interval(kept),
        )
        for threshold, kept in chosen
    ]


def accuracy_interval(judged: Sequence[Judged]) -> tuple[float, float]:
    """Return the 95 % interval of the share that is right; (0, 1) of nothing.

    Fields of one item hang together. Wilson's interval counts as many answers as would say as much
    if they did not: their number divided by the design effect (Korn and Graubard 1998). Where all
    are right, or none, it counts items.
    """
    if not judged:
        return 0.0, 1.0
    share = fmean(one.is_right for one in judged)
    sums: defaultdict[str, float] = defaultdict(float)
    for one in judged:
        sums[one.item_id] += one.is_right - share
    independent = len(judged) * share * (1 - share)
    count = len(judged) / max(1.0, sum(of * of for of in sums.values()) / independent) if independent else len(sums)
    z = NormalDist().inv_cdf(0.975)
    middle, reach = share + z**2 / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    low, high = ((middle + side) / (1 + z**2 / count) for side in (-reach, reach))
    return max(0.0, low), min(1.0, high)


def ranking(judged: Sequence[Judged]) -> float:
    """Return the area under the ROC curve of agreement for being right; NaN where all are alike."""
    from sklearn.metrics import roc_auc_score  # heavy: imported on use

    right = [one.is_right for one in judged]
    return float(roc_auc_score(right, [one.agreement for one in judged])) if len(set(right)) > 1 else math.nan
