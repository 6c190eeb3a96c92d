"""The sentences that the numbers of one group support."""

from collections.abc import Mapping
from typing import Any

from grpo_mmpc.recbench.completions import COMPLETED
from grpo_mmpc.recbench.plan import NO_MISSING
from grpo_mmpc.recbench.report.labels import LEAD, MISSING, against_first, method_label, quoted, recovery_label
from grpo_mmpc.reports.common.difference import Difference, tone
from grpo_mmpc.reports.common.findings import Finding, Kind, caution
from grpo_mmpc.reports.common.labels import capital, listed, number
from grpo_mmpc.statistics.verdicts import BETTER, NO_EVIDENCE, SAME, TOO_FEW_CHANGED, TOO_FEW_USERS, WORSE

Entry = Mapping[str, Any]
"""One method, or one comparison of completions, in ``results.json``."""
_UNTOLD = {TOO_FEW_USERS: "too few users", TOO_FEW_CHANGED: "for too few users anything changed"}
"""Why a difference got neither word."""


def findings(group: Mapping[str, Any]) -> list[Finding]:
    """Return sentences on completions, the ceiling, other ways to fill, and what is left out."""
    lead, what = group["metrics"][LEAD], MISSING[group["missing"]]
    return [
        *_between_completions(group, what=what),
        *_completions(lead, what=what),
        *_ceiling(lead, what=what),
        *_strongest_without_policy(lead["methods"], what=what),
        *_same(lead["methods"], what=what),
        *left_out(group),
    ]


def completion_findings(group: Mapping[str, Any], completion: str) -> list[Finding]:
    """Return the sentences on one completion: against the first, then against the reference.

    Where it has no result, the sentence says why.
    """
    what = MISSING[group["missing"]]
    if completion not in group["metrics"].get(LEAD, {}).get("methods", {}):
        why = group["failures"].get(completion)
        return [] if why is None else [Finding(text=f"No result: {why}.", kind="no verdict")]
    return [
        *_between_completions(group, what=what, only=completion),
        *_completions(group["metrics"][LEAD], what=what, only=completion),
    ]


def left_out(group: Mapping[str, Any]) -> list[Finding]:
    """Say why methods, then categories and seeds, are not compared."""
    what = MISSING[group["missing"]]
    reasons = {method_label(name, what=what): why for name, why in group["left_out"].items()} | group["dropped"]
    return [caution(f"{capital(name)} is left out: {why}.") for name, why in reasons.items()]


def _between_completions(group: Mapping[str, Any], *, what: str, only: str | None = None) -> list[Finding]:
    """Compare later completions with the first; if that is the reference, others do so."""
    lead = group["metrics"][LEAD]
    first = lead.get("first_completion")
    if first == lead["reference"]:
        return []
    return [
        _finding(
            f"{capital(method_label(name, what=what))} against {method_label(first, what=what)}, Recall@20: "
            f"{_claim(entry)}.",
            entry,
        )
        for name, entry in against_first(group).items()
        if only in (None, name)
    ]


def _completions(lead: Mapping[str, Any], *, what: str, only: str | None = None) -> list[Finding]:
    """Compare each completion with the reference, the best first, and say what it wins back."""
    completions = {
        name: entry for name, entry in lead["methods"].items() if name.startswith(COMPLETED) and only in (None, name)
    }
    return [
        _finding(
            f"{capital(method_label(name, what=what))}: {_level(entry, lead['reference'], what=what)}"
            f"{_gain(entry, lead['reference'], what=what)}.",
            entry,
        )
        for name, entry in sorted(completions.items(), key=lambda one: -one[1]["value"])
    ]


def _ceiling(lead: Mapping[str, Any], *, what: str) -> list[Finding]:
    ceiling = lead["methods"].get(NO_MISSING)
    if ceiling is None or lead["reference"] == NO_MISSING:
        return []
    follows = ""
    if ceiling["verdict"] in _UNTOLD:
        follows = f"; whether {what} themselves help cannot be told, and recovery is not given"
    elif ceiling["verdict"] != BETTER:
        follows = (
            f"; where {what} themselves do not help, no completion of them can be shown to, and recovery is not given"
        )
    return [_finding(f"The true {what}: {_level(ceiling, lead['reference'], what=what)}{follows}.", ceiling)]


def _strongest_without_policy(methods: Mapping[str, Entry], *, what: str) -> list[Finding]:
    values = {
        name: entry["value"] for name, entry in methods.items() if not name.startswith(COMPLETED) and name != NO_MISSING
    }
    if not values:
        return []
    best = max(values, key=values.__getitem__)
    return [
        Finding(
            text=f"The strongest way without a policy is {quoted(best, what=what)}, Recall@20 {number(values[best])}."
        )
    ]


def _same(methods: Mapping[str, Entry], *, what: str) -> list[Finding]:
    """Name the fills that are the same: nothing was trained, or tested, twice."""
    names: dict[str, list[str]] = {}
    for name, entry in methods.items():
        if entry["same_as"] is not None:
            names.setdefault(entry["same_as"], []).append(quoted(name, what=what))
    return [
        Finding(
            text=f"{listed(alike)} {'is' if len(alike) == 1 else 'are'} the same as "
            f"{quoted(original, what=what)} here: recommenders get exactly the same features."
        )
        for original, alike in names.items()
    ]


def difference_of(entry: Entry) -> Difference:
    """Return an entry's difference to what it is compared with."""
    return Difference(
        value=entry["difference"], interval=entry["difference_ci95"], verdict=entry["verdict"], p=entry["p_holm"]
    )


def _finding(text: str, entry: Entry) -> Finding:
    verdict = entry["verdict"]
    kind: Kind = "no verdict" if verdict in _UNTOLD else "not supported" if verdict == NO_EVIDENCE else "supported"
    return Finding(text=text, kind=kind, tone=tone(verdict))


def _level(entry: Entry, reference: str, *, what: str) -> str:
    level = f"Recall@20 {number(entry['value'])}"
    if entry["difference"] is None:
        return f"{level}, the reference"
    return f"{level}, {_claim(entry, other=quoted(reference, what=what))}"


def _claim(entry: Entry, *, other: str = "") -> str:
    """Say what a difference shows; ``other`` names what it is to, where the sentence does not."""
    difference = difference_of(entry)
    than, to = (f" than {other}", f" to {other}") if other else ("", "")
    if difference.verdict == SAME:
        return f"the same as {other}" if other else "the same, recommenders get exactly the same features"
    if difference.verdict in _UNTOLD:
        return f"{difference.change}{to}, but {_UNTOLD[difference.verdict]} to say whether that is chance"
    words = {BETTER: f"better{than}", WORSE: f"worse{than}"}
    return f"{words.get(difference.verdict, f'no evidence of a difference{to}')} ({difference.evidence()})"


def _gain(entry: Entry, reference: str, *, what: str) -> str:
    """Say what completions win back; a share below zero is not called one."""
    if entry["verdict"] == WORSE:
        return "; it loses to leaving the gaps as zeros" if reference == "zeros" else ""
    if entry["recovery"] is None:
        return ""
    distance = f"of the distance from {quoted(reference, what=what)} to the true {what}"
    if entry["recovery"] <= 0:
        return f"; nothing shows that it recovers any {distance}"
    return f"; it recovers {recovery_label(entry, interval='95% interval ')} {distance}"
