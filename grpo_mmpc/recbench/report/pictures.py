"""The lead metric against the missing rate, of every recommender and modality with several rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.recbench.filled_features import COMPLETED
from grpo_mmpc.recbench.plan import NO_MISSING
from grpo_mmpc.recbench.report.groups import LEAD, Spot, level, subject
from grpo_mmpc.recbench.report.labels import MISSING, RECOMMENDERS, method_label
from grpo_mmpc.recbench.report.rate_lines import Line, RateLines, rate_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureView:
    """One picture, with what stands above it."""

    title: str
    drawn: RateLines


def pictures(groups: Sequence[Mapping[str, Any]]) -> list[PictureView]:
    """Pictures of ``results.json``.

    Args:
        groups: Those with something to compare.
    """
    by_subject: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for group in sorted(groups, key=lambda group: float(group["rate"])):
        by_subject.setdefault(subject(group), []).append(group)
    return [
        _picture(alike, recommender=recommender, what=MISSING[missing])
        for (recommender, missing), alike in by_subject.items()
        if len({group["rate"] for group in alike}) > 1
    ]


def _picture(groups: Sequence[Mapping[str, Any]], *, recommender: str, what: str) -> PictureView:
    points: dict[str, list[tuple[float, Spot]]] = {}
    for group in groups:
        for method, found in group["metrics"][LEAD]["methods"].items():
            points.setdefault(method, []).append((group["rate"], level(found)))
    lines = [
        Line(label=method_label(method, what=what), kind=_kind(method), points=levels)
        for method, levels in points.items()
    ]
    return PictureView(
        title=f"{RECOMMENDERS[recommender]}, Recall@20 by share of missing {what}",
        drawn=rate_lines(lines, label=f"Recall@20 against the share of missing {what}"),
    )


def _kind(method: str) -> str:
    if method.startswith(COMPLETED):
        return "completion"
    return "ceiling" if method == NO_MISSING else "fill"
