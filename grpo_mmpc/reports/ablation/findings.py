"""The sentences that an ablation supports, and how far to trust them."""

from collections.abc import Mapping, Sequence

from grpo_mmpc.ablation.comparison import AblationComparison, MetricRow, MixCell
from grpo_mmpc.ablation.pareto import Pareto
from grpo_mmpc.ablation.results import Results
from grpo_mmpc.ablation.spec import BASE
from grpo_mmpc.reports.common.difference import common_tone
from grpo_mmpc.reports.common.findings import Finding, caution
from grpo_mmpc.reports.common.labels import listed, metric_label, plural, signed
from grpo_mmpc.statistics.verdicts import BETTER, NO_EVIDENCE, WORSE

FEW_SEEDS = 5
SEEDS_OF_PROMISE, MIXES_OF_PROMISE = 3, 3
"""Fewest for which the chance of a false finding was simulated to stay at 5%."""


def findings(comparison: AblationComparison, front: Pareto | None) -> list[Finding]:
    """Give verdicts on metrics that no mix was trained on, then mix by mix, then the front."""
    if not comparison.rows:
        return [Finding(text="No run has finished: there is nothing to compare yet.", kind="no verdict")]
    if comparison.reference != BASE and comparison.reference not in comparison.mixes:
        text = f"No run of the reference {comparison.reference} has finished: levels are shown, differences are not."
        return [Finding(text=text, kind="no verdict")]
    mixes = [mix for mix in comparison.mixes if mix != comparison.reference]
    said = [_lead(comparison, mixes), *(finding for mix in mixes for finding in _on_mix(comparison, mix))]
    return said if front is None else [*said, _on_front(front)]


def reference_name(comparison: AblationComparison) -> str:
    """Name what mixes are compared with."""
    return "the model before training" if comparison.reference == BASE else comparison.reference


def _lead(comparison: AblationComparison, mixes: Sequence[str]) -> Finding:
    rows = [row for row in comparison.rows if not row.trained_by and row.n_scored]
    if not rows:
        text = "Every metric shown was a reward of some mix, so no win can be told from having been trained on it."
        return Finding(text=text, kind="no verdict")
    reference = reference_name(comparison)
    claims = {mix: claim for mix in mixes if (claim := _claim(rows, mix, reference))}
    scope = f"On the {plural(len(rows), 'metric')} that no mix was trained on"
    if claims:
        others = len(mixes) - len(claims)
        rest = [f"no evidence that {'the other differs' if others == 1 else 'the others differ'}"] if others else []
        tone = common_tone(_cell(row, mix).verdict for row in rows for mix in claims)
        return Finding(text=f"{scope}, {'; '.join([*claims.values(), *rest])}.", tone=tone)
    if any(cell.verdict == NO_EVIDENCE for row in rows for cell in row.cells):
        return Finding(text=f"{scope}, no evidence that any mix differs from {reference}.", kind="not supported")
    why = sorted({cell.verdict for row in rows for cell in row.cells} - {""})
    return Finding(text=f"{scope}, nothing could be compared with {reference} ({listed(why)}).", kind="no verdict")


def _claim(rows: Sequence[MetricRow], mix: str, reference: str) -> str:
    """``clip is worse than default in ROUGE-L``; empty where it is neither better nor worse."""
    better, worse = (
        listed([metric_label(row.metric) for row in rows if _cell(row, mix).verdict == verdict])
        for verdict in (BETTER, WORSE)
    )
    if better and worse:
        return f"{mix} is better than {reference} in {better} but worse in {worse}"
    if better:
        return f"{mix} is better than {reference} in {better}, and not shown to be worse in any"
    return f"{mix} is worse than {reference} in {worse}" if worse else ""


def _on_mix(comparison: AblationComparison, mix: str) -> list[Finding]:
    cells = [(row, _cell(row, mix)) for row in comparison.rows]
    claims = []
    for verdict in (BETTER, WORSE):
        named = [
            f"{metric_label(row.metric)}{'*' if cell.was_reward else ''} {signed(cell.difference.value)}"
            for row, cell in cells
            if cell.verdict == verdict and cell.difference
        ]
        if named:
            claims.append(f"{verdict} in {listed(named)}")
    unclear = sum(cell.verdict == NO_EVIDENCE for _, cell in cells)
    rest = [f"no evidence of a difference in {unclear} of {plural(len(cells), 'metric')}"] if unclear else []
    if not claims and not rest:
        return []
    others = {cell.verdict for _, cell in cells} - {BETTER, WORSE, NO_EVIDENCE, ""}
    for verdict in sorted(others):
        names = [metric_label(row.metric) for row, cell in cells if cell.verdict == verdict]
        rest.append(f"{verdict} in {listed(names)}")
    text = f"{mix} against {reference_name(comparison)}: {'; '.join([*claims, *rest])}."
    tone = common_tone(cell.verdict for _, cell in cells)
    return [Finding(text=text, kind="supported" if claims else "not supported", tone=tone)]


def _on_front(front: Pareto) -> Finding:
    plane = f"{metric_label(front.x.metric)} and {metric_label(front.y.metric)}"
    text = f"Best in {plane} together, by means (the front of the figure): {listed(front.front)}."
    if len(front.front) == len(front.points) > 1:
        text += " No mix is ahead of another in both."
    return Finding(text=text)


def cautions(comparison: AblationComparison, results: Results) -> list[Finding]:
    """Say how far to trust the verdicts."""
    seeds = len(comparison.seeds)
    texts = []
    if comparison.rows:
        texts.append(_on_seeds(seeds, _shared_seeds(comparison)))
    if comparison.family:
        texts.append(_on_chance(comparison))
    texts += _on_data_order(results)
    uneven = [mix for mix in comparison.mixes if len(results.of(mix)) < seeds]
    if uneven:
        texts.append(
            f"Fewer seeds than others: {', '.join(uneven)}; they are compared on the seeds they share with "
            "the reference."
        )
    return [caution(text) for text in texts]


def _shared_seeds(comparison: AblationComparison) -> dict[str, int]:
    """Count by mix the seeds that its comparison with the reference rests on."""
    cells = [cell for row in comparison.rows[:1] for cell in row.cells]
    return {cell.mix: cell.num_seeds for cell in cells if cell.mix != comparison.reference}


def _on_seeds(seeds: int, shared: Mapping[str, int]) -> str:
    if seeds == 1:
        return (
            "One seed: intervals are over items alone and say what these very runs do. Whether a mix would do the "
            "same with another seed cannot be told."
        )
    text = (
        f"{plural(seeds, 'seed')}: intervals and verdicts are meant for other seeds and other items like these. "
        f"The spread over seeds is estimated from {seeds} values a mix, which intervals pay for by their width."
    )
    fewest = min(shared.values(), default=seeds)
    if fewest < seeds:
        named = [mix for mix, number in shared.items() if number == fewest]
        text += f" The comparison of {listed(named)} rests on {plural(fewest, 'seed')}."
    if fewest < FEW_SEEDS:
        text += (
            " So few can show differences that are large beside that spread; they cannot show small ones, nor that "
            "a mix fails now and then, and a mix that is much less stable than the others gets intervals that are "
            "too narrow."
        )
    return text


def _on_chance(comparison: AblationComparison) -> str:
    text = f"p-values are corrected for all {plural(comparison.family, 'comparison')} of the matrix (Holm)"
    shared, seeds = _shared_seeds(comparison), len(comparison.seeds)
    is_complete = all(number == seeds for number in shared.values())
    if seeds >= SEEDS_OF_PROMISE and len(comparison.mixes) >= MIXES_OF_PROMISE and is_complete:
        text += ": the chance of any false better or worse in it is kept at 5%"
    elif seeds == 1:
        text += ", for the randomness of items only: that of seeds is in none of them"
    else:
        text += (
            f", but with fewer than {SEEDS_OF_PROMISE} seeds or {MIXES_OF_PROMISE} mixes, or with runs missing, "
            "the chance of a false better or worse can be above 5%"
        )
    return f"{text}. No evidence of a difference does not show that there is none."


def _on_data_order(results: Results) -> list[str]:
    order = results.data_order
    texts = []
    differing = {seed: where for seed, where in order.items() if where}
    if differing:
        where = "; ".join(f"seed {seed}: {text}" for seed, text in differing.items())
        texts.append(
            f"Mixes did NOT see the same prompts in the same order ({where}): differences are not those of "
            "rewards alone."
        )
    same = [seed for seed, where in order.items() if where == ""]
    if same:
        within = "Within every seed" if len(same) == len(order) else f"Within {_seeds(same)}"
        texts.append(f"{within}, all mixes saw the same prompts in the same order (checked in the saved rollouts).")
    unknown = [seed for seed, where in order.items() if where is None]
    if unknown:
        texts.append(
            f"Whether all mixes saw the same prompts in the same order was not checked for {_seeds(unknown)}: "
            "there is only one mix, or a run without rollouts."
        )
    return texts


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {listed([str(seed) for seed in sorted(seeds)])}"


def _cell(row: MetricRow, mix: str) -> MixCell:
    return next(cell for cell in row.cells if cell.mix == mix)
