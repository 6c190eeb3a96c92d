"""What the numbers of one group support, in sentences."""

from collections.abc import Mapping
from typing import Any

from grpo_mmpc.recbench.filled_features import COMPLETED
from grpo_mmpc.recbench.plan import NO_MISSING
from grpo_mmpc.recbench.report.groups import LEAD, against_first
from grpo_mmpc.recbench.report.labels import (
    MISSING,
    capital,
    ends_label,
    method_label,
    quoted,
    recovery_label,
)
from grpo_mmpc.reports.common.labels import listed, number, p_value, signed
from grpo_mmpc.statistics.verdicts import BETTER, SAME, TOO_FEW_USERS, WORSE


def findings(group: Mapping[str, Any]) -> list[str]:
    """First of completions against each other, then of each, the best first, of the ceiling, of other ways, of what is left out.

    Args:
        group: Of ``results.json``, with something to compare.
    """
    lead, what = group["metrics"][LEAD], MISSING[group["missing"]]
    return [
        *_between_completions(group, what=what),
        *_completions(lead, what=what),
        *_ceiling(lead, what=what),
        *_strongest_without_policy(lead["methods"], what=what),
        *_same(lead["methods"], what=what),
        *left_out(group),
    ]


def left_out(group: Mapping[str, Any]) -> list[str]:
    """Why methods, then categories and seeds, are not compared."""
    what = MISSING[group["missing"]]
    reasons = {method_label(name, what=what): why for name, why in group["left_out"].items()} | group["dropped"]
    return [f"{capital(name)} is left out: {why}." for name, why in reasons.items()]


def _between_completions(group: Mapping[str, Any], *, what: str) -> list[str]:
    """Whether the second policy is worth more than the first; where the first is the reference, what follows says so."""
    lead = group["metrics"][LEAD]
    first = lead.get("first_completion")
    if first == lead["reference"]:
        return []
    return [
        f"{capital(method_label(name, what=what))} against {method_label(first, what=what)}: {_between(found)}."
        for name, found in against_first(group).items()
    ]


def _between(found: Mapping[str, Any]) -> str:
    if found["verdict"] == SAME:
        return "the same, recommenders are told exactly the same"
    change = f"Recall@20 {signed(found['difference'])}"
    if found["verdict"] == TOO_FEW_USERS:
        return f"{change}, but too few users to say whether that is chance"
    within = ends_label(found["difference_ci95"], write=signed)
    said = found["verdict"] if found["verdict"] in (BETTER, WORSE) else "no evidence of a difference"
    return f"{change} (95% interval {within}, corrected p {p_value(found['p_holm'])}), {said}"


def _completions(lead: Mapping[str, Any], *, what: str) -> list[str]:
    completions = {name: found for name, found in lead["methods"].items() if name.startswith(COMPLETED)}
    return [
        f"{capital(method_label(name, what=what))}: {_verdict(found, lead['reference'], what=what)}"
        f"{_gain(found, lead['reference'], what=what)}."
        for name, found in sorted(completions.items(), key=lambda one: -one[1]["value"])
    ]


def _ceiling(lead: Mapping[str, Any], *, what: str) -> list[str]:
    ceiling = lead["methods"].get(NO_MISSING)
    if ceiling is None or lead["reference"] == NO_MISSING:
        return []
    follows = ""
    if ceiling["verdict"] == TOO_FEW_USERS:
        follows = f"; whether {what} themselves help cannot be told, and recovery is not given"
    elif ceiling["verdict"] != BETTER:
        follows = (
            f"; where {what} themselves do not help, no completion of them can be shown to, and recovery is not given"
        )
    return [f"The true {what}: {_verdict(ceiling, lead['reference'], what=what)}{follows}."]


def _strongest_without_policy(methods: Mapping[str, Mapping[str, Any]], *, what: str) -> list[str]:
    values = {
        name: found["value"] for name, found in methods.items() if not name.startswith(COMPLETED) and name != NO_MISSING
    }
    if not values:
        return []
    best = max(values, key=values.__getitem__)
    return [f"The strongest way without a policy is {quoted(best, what=what)}, Recall@20 {number(values[best])}."]


def _same(methods: Mapping[str, Mapping[str, Any]], *, what: str) -> list[str]:
    """Names of one fill: nothing was trained, or tested, twice."""
    names: dict[str, list[str]] = {}
    for name, found in methods.items():
        if found["same_as"] is not None:
            names.setdefault(found["same_as"], []).append(quoted(name, what=what))
    return [
        f"{listed(alike)} {'is' if len(alike) == 1 else 'are'} the same as {quoted(original, what=what)} here: "
        "recommenders are told exactly the same."
        for original, alike in names.items()
    ]


def _verdict(found: Mapping[str, Any], reference: str, *, what: str) -> str:
    if found["difference"] is None:
        return "the reference"
    level, other, change = (
        f"Recall@20 {number(found['value'])}",
        quoted(reference, what=what),
        signed(found["difference"]),
    )
    if found["verdict"] == SAME:
        return f"{level}, the same as {other}"
    if found["verdict"] == TOO_FEW_USERS:
        return f"{level}, {change} to {other}, but too few users to say whether that is chance"
    said = {BETTER: "better than", WORSE: "worse than"}.get(found["verdict"], "no evidence of a difference to")
    within = ends_label(found["difference_ci95"], write=signed)
    return f"{level}, {said} {other} ({change}, 95% interval {within}, corrected p {p_value(found['p_holm'])})"


def _gain(found: Mapping[str, Any], reference: str, *, what: str) -> str:
    """What completions win back. A share below zero is not called one."""
    if found["verdict"] == WORSE:
        return "; it loses to leaving the gaps as zeros" if reference == "zeros" else ""
    if found["recovery"] is None:
        return ""
    distance = f"of the distance from {quoted(reference, what=what)} to the true {what}"
    if found["recovery"] <= 0:
        return f"; nothing shows that it recovers any {distance}"
    return f"; it recovers {recovery_label(found, interval='95% interval ')} {distance}"
