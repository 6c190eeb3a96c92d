"""Everything that is shown of ``results.json``: every number already written, every picture already drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from grpo_mmpc.recbench.filled_features import COMPLETED
from grpo_mmpc.recbench.report.cautions import cautions
from grpo_mmpc.recbench.report.findings import findings
from grpo_mmpc.recbench.report.groups import (
    LEAD,
    SECOND,
    against_first,
    change,
    compared,
    has_one_seed,
    level,
    subject,
)
from grpo_mmpc.recbench.report.labels import (
    MISSING,
    ends_label,
    group_title,
    method_label,
    quoted,
    recovery_label,
)
from grpo_mmpc.recbench.report.pictures import PictureView, pictures
from grpo_mmpc.reports.common.figures import Scale, axis, scale_of, track
from grpo_mmpc.reports.common.labels import NO_VALUE, duration, number, p_value, plural, signed
from grpo_mmpc.statistics.verdicts import BETTER, NO_EVIDENCE, SAME, TOO_FEW_USERS, WORSE

_REFERENCE = ""
"""The verdict on the reference."""
_GLYPHS = {BETTER: "▲", WORSE: "▼", NO_EVIDENCE: "·", _REFERENCE: "=", SAME: "=", TOO_FEW_USERS: NO_VALUE}
_VERDICTS = {_REFERENCE: "reference", TOO_FEW_USERS: "few users"}
"""In a column, where they must be short; the others as they are."""
_HEADLINES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LineView:
    """One method in a table."""

    label: str
    is_reference: bool
    is_completion: bool
    level: str
    second: str
    change: str
    change_interval: str
    p: str
    verdict: str
    glyph: str
    tone: str
    recovery: str
    coverage: str
    levels: Markup
    forest: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """One recommender at one rate of one missing modality."""

    title: str
    reference: str
    sentences: list[str]
    tone: str
    note: str
    levels_axis: Markup
    forest_axis: Markup
    lines: list[LineView]
    categories: list[tuple[str, list[str]]]
    """Lead metric by category, a cell for each line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendationView:
    """Everything the templates show."""

    groups: list[GroupView]
    headlines: list[GroupView]
    """Of every recommender and modality the group in which most is missing, the first few."""
    pictures: list[PictureView]
    facts: list[tuple[str, str]]
    cautions: list[str]
    reference: str
    """Of all groups, as sentences name it: ``“zeros”``, or ``the reference`` where they have
    different ones."""
    over: str
    """What intervals are over: ``users and seeds``."""
    nothing: str
    """Why there are no groups."""


def recommendation_view(results: Mapping[str, Any]) -> RecommendationView:
    """What is shown of ``results.json``."""
    groups = compared(results)
    views = [_group(group) for group in groups]
    widest: dict[tuple[str, str], int] = {}
    for position, group in enumerate(groups):
        best = widest.setdefault(subject(group), position)
        if group["rate"] > groups[best]["rate"]:
            widest[subject(group)] = position
    references = {quoted(group["metrics"][LEAD]["reference"], what=MISSING[group["missing"]]) for group in groups}
    return RecommendationView(
        groups=views,
        headlines=[views[position] for position in widest.values()][:_HEADLINES],
        pictures=pictures(groups),
        facts=_facts(results),
        cautions=cautions(results),
        reference=references.pop() if len(references) == 1 else "the reference",
        over="users" if groups and all(has_one_seed(group) for group in groups) else "users and seeds",
        nothing=_nothing(results),
    )


def _nothing(results: Mapping[str, Any]) -> str:
    if results["cells"] > results["failures"]:
        return (
            "There is nothing to compare: recommenders finished, but too many others failed for any two ways to fill to "
            "share a seed and a category."
        )
    return "No recommender finished: there is nothing to compare."


def _group(group: Mapping[str, Any]) -> GroupView:
    lead, what = group["metrics"][LEAD], MISSING[group["missing"]]
    methods = lead["methods"]
    order = sorted(methods, key=lambda name: (-methods[name]["value"], name))
    level_scale = scale_of([level(found) for found in methods.values()])
    change_scale = scale_of([change(found) for found in methods.values()], include=[0.0])
    lines = [_line(group, name, level_scale=level_scale, change_scale=change_scale) for name in order]
    # Of what the first sentence says.
    between = {found["verdict"] for found in against_first(group).values()}
    tones = (between or {line.tone for line in lines if line.is_completion}) & {BETTER, WORSE}
    return GroupView(
        title=group_title(group),
        reference=method_label(lead["reference"], what=what),
        sentences=findings(group),
        tone=tones.pop() if len(tones) == 1 else "unclear",
        note=f"{plural(lead['users'], 'user')} of {_categories(lead['categories'])}, {plural(len(lead['seeds']), 'seed')}",
        levels_axis=axis(level_scale),
        forest_axis=axis(change_scale, signs=True),
        lines=lines,
        categories=[
            (category, [number(methods[name]["by_category"][category]["value"]) for name in order])
            for category in lead["categories"]
        ]
        if len(lead["categories"]) > 1
        else [],
    )


def _line(group: Mapping[str, Any], name: str, *, level_scale: Scale, change_scale: Scale) -> LineView:
    lead = group["metrics"][LEAD]
    found, is_reference = lead["methods"][name], name == lead["reference"]
    tone = found["verdict"] if found["verdict"] in (BETTER, WORSE) else "unclear"
    ends = found["difference_ci95"]
    return LineView(
        label=method_label(name, what=MISSING[group["missing"]]),
        is_reference=is_reference,
        is_completion=name.startswith(COMPLETED),
        level=number(found["value"]),
        second=number(group["metrics"][SECOND]["methods"][name]["value"]),
        change="reference" if is_reference else signed(found["difference"]),
        change_interval=ends_label(ends, write=signed) if ends else "",
        p=p_value(found["p_holm"]),
        verdict=_VERDICTS.get(found["verdict"], found["verdict"]),
        glyph=_GLYPHS[found["verdict"]],
        tone=tone,
        recovery=recovery_label(found),
        coverage=_coverage(group["coverage"][name]),
        levels=track(level(found), scale=level_scale, tone="unclear", difference=False),
        forest=track(change(found), scale=change_scale, tone=tone, difference=True),
    )


def _coverage(coverage: Mapping[str, Mapping[str, Any]]) -> str:
    """Empty for what fills no gaps."""
    masked = sum(one["masked"] for one in coverage.values())
    return f"{sum(one['covered'] for one in coverage.values()) / masked:.0%}" if masked else ""


def _categories(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else plural(len(names), "category")


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    splits = [one["split"] for one in results["categories"].values()]
    return [
        ("Categories", str(len(splits))),
        # One who is in several categories is one; a file of an earlier version does not know.
        ("Users", f"{results.get('users', sum(split['users'] for split in splits)):,}"),
        ("Items", f"{sum(split['items'] for split in splits):,}"),
        ("Training interactions", f"{sum(split['train'] for split in splits):,}"),
        ("Recommenders trained", f"{results['cells']:,}"),
        ("Time of the last run", duration(results["seconds"])),
    ]
