"""What changes of a page that shows runs, as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from grpo_mmpc.reports.common.figures import Scale, axis, scale_for, track
from grpo_mmpc.reports.common.labels import clamp, number
from grpo_mmpc.reports.common.templates import render_part
from grpo_mmpc.reports.common.thumbnails import thumbnails
from grpo_mmpc.reports.run.curves import held_out_curves, training_curves
from grpo_mmpc.reports.watch.history import mean_of
from grpo_mmpc.reports.watch.live_run import LiveRun, View
from grpo_mmpc.reports.watch.newest import Change, Group
from grpo_mmpc.reports.watch.signals import signals_of, sparkline

_IMAGE_BUDGET = 400_000
"""Bytes of all images, which every refresh sends again."""
_GROUPS = 6
_SAMPLES = 16
_TEXT = 300
_BLOCKS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A metric of the newest evaluation with its change drawn; no figure in units of its own."""

    change: Change
    figure: Markup


def run_part(live: LiveRun) -> str:
    """Return all there is to see of a run."""
    view = live.look()
    groups = view.groups[:_GROUPS]
    images = live.kept("images", [group.image for group in groups], lambda: _images(view, groups))
    held_out = live.kept("held out", view.run, lambda: held_out_curves(view.run, last_step=view.progress.step))
    scale = _scale(view)
    return render_part(
        "reports/watch/run.html",
        view=view,
        facts=_facts(view),
        signals=signals_of(view),
        scale_axis=axis(scale, signs=True),
        evaluation=_lines(view, scale),
        training=training_curves(view.rows, weights=view.weights),
        held_out=[group for group in held_out if group.curves or group.constant],
        groups=groups,
        most=_SAMPLES,
        images=images,
        clamp=lambda text: clamp(text, limit=_TEXT)[0],
    )


def board_part(runs: Sequence[LiveRun]) -> str:
    """Return a line for each of several runs."""
    views = [run.look(whole=False) for run in runs]
    lines = []
    for view in views:
        key = "reward" if any("reward" in row for row in view.rows) else "loss"
        line = sparkline([row.get(key) for row in view.rows], width=_BLOCKS)
        flat = mean_of(view.latest, "dead_group_share")
        lines.append((view, line, mean_of(view.latest, key), "" if flat is None else f"{flat:.0%}"))
    return render_part("reports/watch/board.html", lines=lines)


def _images(view: View, groups: Sequence[Group]) -> object:
    paths = [group.image for group in groups if group.image is not None]
    return thumbnails(paths, folders=view.run.image_folders, budget=_IMAGE_BUDGET)


def _facts(view: View) -> list[tuple[str, str]]:
    values = {
        "Reward": (mean_of(view.latest, "reward"), 3, ""),
        "Zero-variance groups": (mean_of(view.latest, "dead_group_share"), None, ""),
        "Tokens a second": (mean_of(view.latest, "tokens_per_second"), 0, ""),
        "GPU memory at most": (mean_of(view.latest, "memory/gpu_peak_gib"), 1, " GiB"),
        "Memory at most": (mean_of(view.latest, "memory/peak_gib"), 1, " GiB"),
    }
    return [
        (label, f"{value:.0%}" if digits is None else f"{number(value, digits=digits, grouped=True)}{unit}")
        for label, (value, digits, unit) in values.items()
        if value is not None
    ]


def _scale(view: View) -> Scale:
    changes = [one for lines in (view.newest.tasks.values() if view.newest else ()) for one in lines if _is_share(one)]
    ends = [end for one in changes for end in (one.change, *(one.interval or ()))]
    return scale_for(ends, include=(0.0,), max_ticks=5)


def _lines(view: View, scale: Scale) -> dict[str, list[_Line]]:
    if view.newest is None:
        return {}
    return {
        task: [_Line(change=one, figure=_figure(one, scale)) for one in changes]
        for task, changes in view.newest.tasks.items()
    }


def _figure(one: Change, scale: Scale) -> Markup:
    if not _is_share(one):
        return Markup("")
    return track(one.change, scale=scale, tone="unclear", interval=one.interval, signs=True)


def _is_share(one: Change) -> bool:
    return abs(one.before) <= 1 and abs(one.after) <= 1
