"""The cautions: what a reader must know before believing the numbers."""

from collections.abc import Mapping
from typing import Any

from grpo_mmpc.recbench.report.findings import left_out
from grpo_mmpc.recbench.report.labels import (
    MISSING,
    compared,
    group_title,
    has_one_seed,
    method_label,
    rate_label,
)
from grpo_mmpc.reports.common.findings import texts
from grpo_mmpc.reports.common.labels import capital, listed, plural

_REASONS = 6
"""Reasons that are named; they may be as many as items."""
_PAPER_MODE = (
    "Paper mode reproduces the official protocol with its flaws: masked items without a completion keep their true "
    "vectors, hyper-parameters are chosen on the test part, the mask differs from process to process, VBPR and BPR "
    "have no item biases, and in FREEDOM's graph the same few items without features are everybody's neighbours."
)


def cautions(results: Mapping[str, Any]) -> list[str]:
    """Return the cautions on mode, data and devices, then failures and gaps of single methods."""
    sentences = [_PAPER_MODE] if results["mode"] == "paper" else []
    if aside := results.get("rows_set_aside"):
        sentences.append(f"{aside:,} of the catalogue's {results['rows']:,} rows are broken and left out.")
    broken = max((one.get("interactions", {}).get("broken", 0) for one in results["categories"].values()), default=0)
    if broken:
        sentences.append(f"{plural(broken, 'row')} of the interactions file cannot be read: left out.")
    sentences += [f"{name} is left out: {why}" for name, why in results["excluded_categories"].items()]
    sentences += _one_seed(results)
    if not compared(results):
        sentences += [
            f"{group_title(group)}: {sentence}" for group in results["groups"] for sentence in texts(left_out(group))
        ]
    sentences += _devices(results)
    # Only a run's own benchmark knows what its policy was trained on.
    sentences += results.get("cautions", [])
    for group in results["groups"]:
        sentences += _failures(group) + _not_filled(group)
    # At one rate, all recommenders get the same gaps.
    return list(dict.fromkeys(sentences))


def _one_seed(results: Mapping[str, Any]) -> list[str]:
    groups = compared(results)
    alone = [group for group in groups if has_one_seed(group)]
    if not alone:
        return []
    where = "" if len(alone) == len(groups) else f" in {listed([group_title(group) for group in alone])}"
    return [
        f"There is one seed{where}: how a recommender happens to start moves its result, and no interval or p-value "
        "knows by how much. Repeat with more seeds before believing a difference."
    ]


def _devices(results: Mapping[str, Any]) -> list[str]:
    devices = sorted({device for group in results["groups"] for device in group["devices"]})
    if len(devices) < 2:
        return []
    return [
        f"Recommenders ran on {listed(devices)}: what the same one finds on each differs a little, as if by chance."
    ]


def _failures(group: Mapping[str, Any]) -> list[str]:
    what = MISSING[group["missing"]]
    return [
        f"{capital(method_label(method, what=what))}, {group_title(group)}: {why}"
        for method, why in group["failures"].items()
    ]


def _not_filled(group: Mapping[str, Any]) -> list[str]:
    what = MISSING[group["missing"]]
    sentences = []
    for method, coverage in group["coverage"].items():
        for modality, one in coverage.items():
            if one["covered"] < one["masked"] and method != "zeros":
                given = [f"{count:,}: {reason}" for reason, count in one["reasons"].items()]
                more = [f"{len(given) - _REASONS:,} more reasons"] if len(given) > _REASONS else []
                reasons = "; ".join([*given[:_REASONS], *more])
                missing = f"{one['masked']:,} missing {MISSING[modality]}"
                some = f"{one['covered']:,} of {missing} filled, the others not"
                sentences.append(
                    f"{capital(method_label(method, what=what))} at {rate_label(group['rate'])}: "
                    f"{some if one['covered'] else f'none of {missing} filled'} ({reasons})."
                )
    return sentences
