"""The reader of groups in ``results.json``, which ``grpo_mmpc.recbench.results`` writes."""

from collections.abc import Mapping
from typing import Any

from grpo_mmpc.recbench.results import SHOWN

LEAD, SECOND = SHOWN
"""The metric of sentences and figures, and the one that is written beside it."""


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
