"""Pictures of an ablation as inline SVG, in the classes of the report's style sheet."""

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from grpo_mmpc.ablation.pareto import Pareto, Point
from grpo_mmpc.reports.common.figures import Scale, scale_for
from grpo_mmpc.reports.common.labels import metric_label, number
from grpo_mmpc.statistics.crossed import Estimate

_WIDTH, _HEIGHT = 640, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 16, 52
_LABEL = 17
"""Least vertical distance of two labels that would lie over each other."""


def pareto_picture(front: Pareto) -> Markup:
    """Mixes in the plane of two metrics, with intervals; those of the front filled and joined by a line."""
    horizontal = scale_for(_ends([point.x for point in front.points]), max_ticks=6)
    vertical = scale_for(_ends([point.y for point in front.points]), max_ticks=6)
    parts = [_axes(front, horizontal, vertical)]
    on_front = sorted((point for point in front.points if point.on_front), key=lambda point: point.x.value)
    for one, other in pairwise(on_front):
        parts.append(
            Markup('<line class="front" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
                _x(one.x.value, horizontal),
                _y(one.y.value, vertical),
                _x(other.x.value, horizontal),
                _y(other.y.value, vertical),
            )
        )
    parts += [_cross(point, horizontal, vertical) for point in front.points]
    parts += _labels(front.points, horizontal, vertical)
    title = f"{metric_label(front.x.metric)} against {metric_label(front.y.metric)}; front: {', '.join(front.front)}"
    return Markup('<svg class="pareto" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, title, Markup("").join(parts)
    )


def _cross(point: Point, horizontal: Scale, vertical: Scale) -> Markup:
    x, y = _x(point.x.value, horizontal), _y(point.y.value, vertical)
    lines = []
    if point.x.interval is not None:
        low, high = (_x(end, horizontal) for end in point.x.interval)
        lines.append(Markup('<line class="reach" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(low, high, y, y))
    if point.y.interval is not None:
        low, high = (_y(end, vertical) for end in point.y.interval)
        lines.append(Markup('<line class="reach" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, low, high))
    kind = "on-front" if point.on_front else "behind"
    return Markup("").join(lines) + Markup('<circle class="{}" cx="{}" cy="{}" r="6"/>').format(kind, x, y)


def _labels(points: Sequence[Point], horizontal: Scale, vertical: Scale) -> list[Markup]:
    """Names beside their dots, moved apart where they would lie over each other."""
    placed: list[tuple[float, float]] = []
    labels = []
    for point in sorted(points, key=lambda point: -point.y.value):
        x, y = float(_x(point.x.value, horizontal)), float(_y(point.y.value, vertical)) - 8
        is_right = x > 0.7 * _WIDTH
        while any(abs(y - other) < _LABEL and abs(x - beside) < 170 for beside, other in placed):
            y += _LABEL
        placed.append((x, y))
        anchor, shift = ("end", -10) if is_right else ("start", 10)
        kind = "name front-name" if point.on_front else "name"
        labels.append(
            Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
                kind, x + shift, y, anchor, point.mix
            )
        )
    return labels


def _axes(front: Pareto, horizontal: Scale, vertical: Scale) -> Markup:
    parts = []
    for tick in horizontal.ticks:
        x = _x(tick, horizontal)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(x, x, _TOP, _HEIGHT - _BOTTOM)
        )
        parts.append(_text(x, str(_HEIGHT - _BOTTOM + 18), number(tick, digits=horizontal.digits), anchor="middle"))
    for tick in vertical.ticks:
        y = _y(tick, vertical)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, _WIDTH - _RIGHT, y, y)
        )
        parts.append(_text(str(_LEFT - 8), f"{float(y) + 4:.1f}", number(tick, digits=vertical.digits), anchor="end"))
    below, beside = _better(front.x.metric, front.x.higher_is_better), _better(front.y.metric, front.y.higher_is_better)
    parts.append(_text(str((_LEFT + _WIDTH - _RIGHT) / 2), str(_HEIGHT - 8), below, anchor="middle"))
    turned = Markup('<text class="tick" transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>')
    parts.append(turned.format((_TOP + _HEIGHT - _BOTTOM) / 2, beside))
    return Markup("").join(parts)


def _better(metric: str, higher: bool) -> str:
    return f"{metric_label(metric)} ({'more' if higher else 'less'} is better)"


def _ends(found: Sequence[Estimate]) -> list[float]:
    return [value for one in found for value in (one.value, *(one.interval or ()))]


def _x(value: float, scale: Scale) -> str:
    return f"{_LEFT + (_WIDTH - _LEFT - _RIGHT) * scale.share(value):.1f}"


def _y(value: float, scale: Scale) -> str:
    return f"{_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * scale.share(value):.1f}"


def _text(x: str, y: str, text: str, *, anchor: str) -> Markup:
    return Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
