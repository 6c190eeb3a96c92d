"""What groups of ``results.json`` are called, and how their numbers are written."""

from collections.abc import Mapping
from typing import Any

from grpo_mmpc.recbench.completions import COMPLETED
from grpo_mmpc.recbench.records import MODALITY_WORDS
from grpo_mmpc.recbench.results import SHOWN
from grpo_mmpc.reports.common.difference import interval_text
from grpo_mmpc.reports.common.labels import number

LEAD, SECOND = SHOWN
"""The metric of sentences and figures, and the one that is written beside it."""
RECOMMENDERS = {
    "vbpr": "VBPR",
    "bm3": "BM3",
    "freedom": "FREEDOM",
    "mmgcn": "MMGCN",
    "": "Recommenders without features",
}
METHODS = {
    "no_missing": "true {what} (ceiling)",
    "zeros": "zeros",
    "mean": "mean",
    "category_mean": "mean of the category",
    "random_paper": "random, N(0, 1)",
    "random_matched": "random, same mean and spread",
    "nearest_neighbour": "mean of nearest neighbours",
    "feature_propagation": "feature propagation",
    "drop_modality": "no {what} at all",
    "id_only": "no features at all",
    "bpr": "BPR, no features",
    "lightgcn": "LightGCN, no features",
    "most_popular": "most popular",
    "random": "random order",
}
MISSING = {**MODALITY_WORDS, "": "features"}


def method_label(name: str, *, what: str) -> str:
    """Return a method's label: ``zeros``, ``no titles at all``, ``completed by qwen``."""
    if name.startswith(COMPLETED):
        return f"completed by {name.removeprefix(COMPLETED)}"
    return METHODS[name].format(what=what)


def quoted(name: str, *, what: str) -> str:
    """Return a method's label in quotes, as sentences name it: some labels hold commas."""
    return f"“{method_label(name, what=what)}”"


def group_title(group: Mapping[str, Any]) -> str:
    """Return the title of a group: ``VBPR, 50% of titles missing``."""
    name = RECOMMENDERS[group["recommender"]]
    return f"{name}, {rate_label(group['rate'])} of {MISSING[group['missing']]} missing" if group["missing"] else name


def rate_label(rate: float) -> str:
    """Return a rate as ``50%`` or ``12.5%``: rates that differ are told apart."""
    return f"{100 * rate:g}%"


def percent(share: float) -> str:
    """Return a share in whole percents, which may be below zero."""
    return f"{number(round(100 * share), digits=0)}%"


def recovery_label(entry: Mapping[str, Any], *, interval: str = "") -> str:
    """Return ``50% (30% to 70%)`` of a method in ``results.json``; empty without recovery.

    ``interval`` is written in front of the ends.
    """
    if entry["recovery"] is None:
        return ""
    ends = entry["recovery_ci95"]
    return percent(entry["recovery"]) + (f" ({interval}{interval_text(ends, write=percent)})" if ends else "")


def against_first(group: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return comparisons of later completions with the first; older files have none."""
    compared: Mapping[str, Mapping[str, Any]] = group["metrics"][LEAD].get("against_first_completion", {})
    return compared


def compared(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return groups in which methods share a seed and a category."""
    return [group for group in results["groups"] if group["metrics"]]


def has_one_seed(group: Mapping[str, Any]) -> bool:
    """Return whether one seed was run, so that its effect is unknown."""
    return len(group["metrics"][LEAD]["seeds"]) == 1


def subject(group: Mapping[str, Any]) -> tuple[str, str]:
    """Return recommender and missing modality, which groups at several rates have in common."""
    return group["recommender"], group["missing"]
