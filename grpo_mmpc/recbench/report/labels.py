"""What the benchmark's recommenders and fills are called, and how its numbers are written."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_mmpc.recbench.filled_features import COMPLETED
from grpo_mmpc.recbench.records import MODALITY_WORDS
from grpo_mmpc.reports.common.labels import number

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
    """``zeros``, ``no titles at all``, ``completed by qwen``.

    Args:
        name: As in ``results.json``.
        what: What is missing, as in ``MISSING``.
    """
    if name.startswith(COMPLETED):
        return f"completed by {name.removeprefix(COMPLETED)}"
    return METHODS[name].format(what=what)


def quoted(name: str, *, what: str) -> str:
    """A method as sentences name it: labels are no words of theirs, and some hold commas."""
    return f"“{method_label(name, what=what)}”"


def group_title(group: Mapping[str, Any]) -> str:
    """``VBPR, 50% of titles missing``."""
    name = RECOMMENDERS[group["recommender"]]
    return f"{name}, {rate_label(group['rate'])} of {MISSING[group['missing']]} missing" if group["missing"] else name


def rate_label(rate: float) -> str:
    """``50%``, ``12.5%``: rates that differ are told apart."""
    return f"{100 * rate:g}%"


def percent(share: float) -> str:
    """A share in whole percents, which may be below zero."""
    return f"{number(round(100 * share), digits=0)}%"


def ends_label(ends: Sequence[float], *, write: Callable[[float], str]) -> str:
    """``+0.090 to +0.110``."""
    return f"{write(ends[0])} to {write(ends[1])}"


def recovery_label(found: Mapping[str, Any], *, interval: str = "") -> str:
    """``50% (30% to 70%)``; empty where recovery is not given.

    Args:
        found: A method in ``results.json``.
        interval: What the ends are called, in front of them.
    """
    if found["recovery"] is None:
        return ""
    ends = found["recovery_ci95"]
    return percent(found["recovery"]) + (f" ({interval}{ends_label(ends, write=percent)})" if ends else "")


def capital(text: str) -> str:
    """The first letter large, the others as they are."""
    return text[:1].upper() + text[1:]
