"""The view of ``results.json``: every number already written, every figure already drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.recbench.completions import COMPLETED
from grpo_mmpc.recbench.report.cautions import cautions
from grpo_mmpc.recbench.report.findings import difference_of, findings
from grpo_mmpc.recbench.report.labels import (
    LEAD,
    MISSING,
    SECOND,
    against_first,
    compared,
    group_title,
    has_one_seed,
    method_label,
    quoted,
    recovery_label,
    subject,
)
from grpo_mmpc.recbench.report.rate_lines import RateFigure, rate_figures
from grpo_mmpc.reports.common.difference import REFERENCE, common_tone
from grpo_mmpc.reports.common.findings import Finding, caution
from grpo_mmpc.reports.common.labels import duration, number, plural
from grpo_mmpc.reports.common.panels import Line, Panel, panel
from grpo_mmpc.statistics.verdicts import TOO_FEW_CHANGED, TOO_FEW_USERS

_VERDICTS = {REFERENCE: "reference", TOO_FEW_USERS: "few users", TOO_FEW_CHANGED: "few changed"}
"""In a column, where they must be short; the others as they are."""
_HEADLINES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FillLine(Line):
    """A method: a line of the panel, and its other numbers."""

    second: str
    """The second metric."""
    verdict: str
    """Short enough for a column."""
    recovery: str
    coverage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """A recommender at one rate of one missing modality."""

    reference: str
    findings: list[Finding]
    tone: str
    panel: Panel
    lines: list[FillLine]
    categories: list[tuple[str, list[str]]]
    """Lead metric by category, a cell for each line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendationView:
    """Everything the templates show."""

    groups: list[GroupView]
    headlines: list[GroupView]
    """The group in which most is missing, of each recommender and modality; the first few."""
    figures: list[RateFigure]
    facts: list[tuple[str, str]]
    cautions: list[Finding]
    reference: str
    """The reference of all groups, as sentences name it: ``“zeros”``, or ``the reference`` where
    they have different ones."""
    over: str
    """The units that intervals resample: ``users and seeds``."""
    nothing: str
    """The reason why there are no groups."""


def recommendation_view(results: Mapping[str, Any]) -> RecommendationView:
    """Return what pages and terminals show of ``results.json``."""
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
        figures=rate_figures(groups),
        facts=_facts(results),
        cautions=[caution(text) for text in cautions(results)],
        reference=references.pop() if len(references) == 1 else "the reference",
        over="users" if groups and all(has_one_seed(group) for group in groups) else "users and seeds",
        nothing=_nothing(results),
    )


def _nothing(results: Mapping[str, Any]) -> str:
    if results["cells"] > results["failures"]:
        return (
            "There is nothing to compare: recommenders finished, but too many others failed for any two ways to fill "
            "to share a seed and a category."
        )
    return "No recommender finished: there is nothing to compare."


def _group(group: Mapping[str, Any]) -> GroupView:
    lead, what = group["metrics"][LEAD], MISSING[group["missing"]]
    methods = lead["methods"]
    order = sorted(methods, key=lambda name: (-methods[name]["value"], name))
    lines = [_line(group, name) for name in order]
    # Of what the first sentence says.
    between = {entry["verdict"] for entry in against_first(group).values()}
    completions = {line.difference.verdict for line in lines if line.is_emphasised}
    note = f"{plural(lead['users'], 'user')} of {_categories(lead['categories'])}, {plural(len(lead['seeds']), 'seed')}"
    return GroupView(
        reference=method_label(lead["reference"], what=what),
        findings=findings(group),
        tone=common_tone(between or completions),
        panel=panel(lines, bounds=(0.0, 1.0), title=group_title(group), note=note),
        lines=lines,
        categories=[
            (category, [number(methods[name]["by_category"][category]["value"]) for name in order])
            for category in lead["categories"]
        ]
        if len(lead["categories"]) > 1
        else [],
    )


def _line(group: Mapping[str, Any], name: str) -> FillLine:
    entry = group["metrics"][LEAD]["methods"][name]
    return FillLine(
        name=method_label(name, what=MISSING[group["missing"]]),
        value=entry["value"],
        interval=entry["ci95"],
        difference=difference_of(entry),
        is_emphasised=name.startswith(COMPLETED),
        second=number(group["metrics"][SECOND]["methods"][name]["value"]),
        verdict=_VERDICTS.get(entry["verdict"], entry["verdict"]),
        recovery=recovery_label(entry),
        coverage=_coverage(group["coverage"][name]),
    )


def _coverage(coverage: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the share of gaps that were filled; empty for what fills none."""
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
