"""What is read of the groups in ``results.json``; see ``grpo_mmpc.recbench.results``, which writes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.recbench.results import SHOWN
from grpo_mmpc.statistics.verdicts import Interval

LEAD, SECOND = SHOWN
"""The metric of sentences and pictures, and the one that is written beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A value with its interval."""

    value: float
    interval: Interval | None


def level(found: Mapping[str, Any]) -> Spot:
    """Of a method."""
    return _spot(found["value"], found["ci95"])


def change(found: Mapping[str, Any]) -> Spot | None:
    """Of a method against the reference; None for the reference itself."""
    return None if found["difference"] is None else _spot(found["difference"], found["difference_ci95"])


def _spot(value: float, ends: Sequence[float] | None) -> Spot:
    return Spot(value=value, interval=Interval(*ends) if ends else None)


def against_first(group: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Completions after the first, each with how it compares with that one; a file of an earlier version has none."""
    found: Mapping[str, Mapping[str, Any]] = group["metrics"][LEAD].get("against_first_completion", {})
    return found


def compared(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Groups in which methods share a seed and a category."""
    return [group for group in results["groups"] if group["metrics"]]


def has_one_seed(group: Mapping[str, Any]) -> bool:
    """Nothing is known of what another start would change."""
    return len(group["metrics"][LEAD]["seeds"]) == 1


def subject(group: Mapping[str, Any]) -> tuple[str, str]:
    """Recommender and missing modality: what groups at several rates have in common."""
    return group["recommender"], group["missing"]
