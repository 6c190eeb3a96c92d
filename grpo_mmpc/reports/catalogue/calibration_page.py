"""The page of a calibration: what a confidence is worth, field by field."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from markupsafe import Markup

from grpo_mmpc.completion.calibration import (
    ALL,
    LEAST,
    Judged,
    Selected,
    accuracy_interval,
    by_kind,
    held_out_probabilities,
    ranking,
    selected,
)
from grpo_mmpc.reports.common.figures import Frame, dot, line, scale_for
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.utils.files import write_text

CALIBRATION_PAGE = "calibration.html"
THRESHOLDS = (0.0, 0.5, 0.8, 0.9, 0.95)
_BINS = 5
_MOST_DOTS = 20


@dataclass(frozen=True, slots=True)
class KindView:
    """One kind of field as the page shows it."""

    name: str
    """Empty for all kinds together."""
    auc: float
    levels: list[Selected]
    """At each of ``THRESHOLDS``."""
    reliability: Markup
    selective: Markup


def kind_views(judged: Sequence[Judged]) -> list[KindView]:
    """Return the kinds that were judged often enough, all together first.

    Confidences are those of curves fitted without the item, so that the page does not flatter.
    """
    chance = dict(zip(judged, held_out_probabilities(judged), strict=True))
    views = []
    for kind, rows in by_kind(judged).items():
        if kind == ALL or len(rows) >= LEAST:
            confidence = [chance[one] for one in rows]
            views.append(
                KindView(
                    name=kind,
                    auc=ranking(rows),
                    levels=selected(rows, confidence, THRESHOLDS),
                    reliability=_reliability(rows, confidence),
                    selective=_selective(rows, confidence),
                )
            )
    return views


def write_calibration_page(folder: Path, judged: Sequence[Judged], *, samples: int) -> Path:
    """Write the page beside the calibration; return its path.

    Args:
        folder: The completed catalogue.
        judged: All that was judged.
        samples: Answers sampled for each item.
    """
    items = len({one.item_id for one in judged})
    page = render_page(
        "reports/catalogue/calibration.html",
        name=folder.name,
        subtitle=[f"{items:,} items of which a field could be judged", f"{samples} samples each"],
        views=kind_views(judged),
        left_out=sorted(kind for kind, rows in by_kind(judged).items() if kind != ALL and len(rows) < LEAST),
        least=LEAST,
        thresholds=THRESHOLDS,
    )
    write_text(folder / CALIBRATION_PAGE, page)
    return folder / CALIBRATION_PAGE


def _frame(low: float) -> Frame:
    share = scale_for([0.0, 1.0], bounds=(0.0, 1.0))
    return Frame(
        width=340,
        height=220,
        left=52,
        right=16,
        top=10,
        bottom=46,
        horizontal=share,
        vertical=scale_for([low, 1.0], bounds=(0.0, 1.0)),
    )


def _reliability(rows: Sequence[Judged], confidence: Sequence[float]) -> Markup:
    """Draw the share that is right over the confidence, in bins of equal numbers."""
    ranked = sorted(zip(confidence, rows, strict=True), key=lambda pair: pair[0])
    size = -(-len(ranked) // _BINS)
    frame = _frame(0.0)
    points = []
    for start in range(0, len(ranked), size):
        part = ranked[start : start + size]
        here = [one for _, one in part]
        points.append((fmean(value for value, _ in part), fmean(one.is_right for one in here), accuracy_interval(here)))
    diagonal = line("base", frame.x(0.0), frame.y(0.0), frame.x(1.0), frame.y(1.0))
    return _drawn(frame, points, [diagonal], below="confidence", beside="share right")


def _selective(rows: Sequence[Judged], confidence: Sequence[float]) -> Markup:
    """Draw the accuracy of what is kept over the share that is kept."""
    kept = selected(rows, confidence, sorted(set(confidence), reverse=True))
    shown: list[Selected] = []
    for one in kept:  # neighbours that hardly differ in what they keep are one dot
        if not shown or one.kept == one.stated or (one.kept - shown[-1].kept) * _MOST_DOTS >= one.stated:
            shown.append(one)
    frame = _frame(min(one.interval[0] for one in shown))
    points = [(one.kept / one.stated, one.accuracy, one.interval) for one in shown]
    return _drawn(frame, points, [], below="share of answers kept", beside="share right")


def _drawn(
    frame: Frame,
    points: Sequence[tuple[float, float, tuple[float, float]]],
    behind: Sequence[Markup],
    *,
    below: str,
    beside: str,
) -> Markup:
    places = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y, _ in points)
    parts = [
        frame.value_axis(),
        frame.step_axis("{:g}".format),
        *behind,
        *(line("reach", frame.x(x), frame.y(low), frame.x(x), frame.y(high)) for x, _, (low, high) in points),
        Markup('<polyline class="trend" points="{}"/>').format(places),
        *(dot("dot", frame.x(x), frame.y(y), radius=3.5) for x, y, _ in points),
        frame.titles(below=below, beside=beside),
    ]
    spoken = ", ".join(f"{x:.2f}: {y:.2f}" for x, y, _ in points)
    return frame.svg("curve", parts, spoken=f"{beside} by {below}: {spoken}")
