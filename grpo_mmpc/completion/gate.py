"""The gate: signals of a proposed title, and whether it is accepted or waits for review."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from grpo_mmpc.catalogue.normalise import title_key
from grpo_mmpc.completion.proposal import Status
from grpo_mmpc.metrics.fields import Fields, contradicted

if TYPE_CHECKING:
    from grpo_mmpc.config.sections import GateSection

AGREEMENT = "agreement."
"""Before the kind: the share of samples that state the same value of it."""
CONFLICT = "conflict."
"""Before the kind: 1 where the item's attributes say another value."""
DUPLICATE, VIOLATED = "duplicate_title", "violated"


def agreement(title: str, samples: Sequence[str | None], fields: Fields, *, whole: str = "title") -> dict[str, float]:
    """Return, for each kind that a text states, the share of samples that state the same.

    A text that states no kind is judged as a ``whole``, under that name. A malformed sample (None)
    states nothing.
    """
    if not samples:
        return {}
    others = [fields.stated(sample) if sample else {} for sample in samples]
    shares = {
        kind: sum(other.get(kind) == values for other in others) / len(samples)
        for kind, values in fields.stated(title).items()
    }
    same = sum(title_key(sample) == title_key(title) for sample in samples)
    return shares or {whole: same / len(samples)}


def agreement_of_values(value: str, samples: Sequence[str | None]) -> dict[str, float]:
    """Return, for each key of a JSON object, the share of samples that give it the same value."""
    others = [json.loads(sample) if sample else {} for sample in samples]
    return {
        key: sum(title_key(other.get(key)) == title_key(text) for other in others) / len(samples)
        for key, text in json.loads(value).items()
        if samples
    }


def signals_of(
    title: str,
    *,
    samples: Sequence[str | None],
    attributes: Mapping[str, str],
    fields: Fields,
    violated: Sequence[str] = (),
    is_duplicate: bool = False,
    whole: str = "title",
) -> dict[str, float]:
    """Return all signals of a title by name; those that say nothing are left out."""
    shares = agreement(title, samples, fields, whole=whole)
    signals = {f"{AGREEMENT}{kind}": share for kind, share in shares.items()}
    signals |= {f"{CONFLICT}{kind}": 1.0 for kind in contradicted(fields.stated(title), attributes)}
    signals |= {DUPLICATE: 1.0} if is_duplicate else {}
    return signals | ({VIOLATED: float(len(violated))} if violated else {})


def signals_of_values(
    value: str, *, samples: Sequence[str | None], title: str | None, fields: Fields
) -> dict[str, float]:
    """Return all signals of a JSON object of attributes, beside the title of their item."""
    signals = {f"{AGREEMENT}{key}": share for key, share in agreement_of_values(value, samples).items()}
    stated = fields.stated(title) if title else {}
    return signals | {f"{CONFLICT}{kind}": 1.0 for kind in contradicted(stated, json.loads(value))}


def judge(
    signals: Mapping[str, float],
    *,
    confidence: Mapping[str, float],
    violated: Sequence[str],
    gate: "GateSection",
    witness: str = "attributes say",
) -> tuple[Status, list[str]]:
    """Return whether a value is accepted, and the reasons why it is not.

    Args:
        signals: Of ``signals_of``.
        confidence: By kind, in [0, 1]: the agreement, or what a calibration makes of it.
        violated: What ``Constraints.check`` says.
        gate: The thresholds.
        witness: What a conflict is with.
    """
    reasons = [
        f"low confidence in {kind}: {value:.2f}, below {gate.confidence:.2f}"
        for kind, value in sorted(confidence.items())
        if value < gate.confidence
    ]
    reasons += [
        f"{name.removeprefix(CONFLICT)} is not what the item's {witness}"
        for name in sorted(signals)
        if name.startswith(CONFLICT)
    ]
    reasons += ["another item has this title"] if DUPLICATE in signals else []
    reasons += violated
    return ("review" if reasons else "accepted"), reasons


def confidences(signals: Mapping[str, float]) -> dict[str, float]:
    """Return the confidence in each field by its kind: the share of samples that agree."""
    return {name.removeprefix(AGREEMENT): share for name, share in signals.items() if name.startswith(AGREEMENT)}
