"""What an ablation supports, in sentences."""

from collections.abc import Mapping, Sequence

from grpo_mmpc.ablation.comparison import AblationComparison, MetricRow, MixCell
from grpo_mmpc.ablation.pareto import Pareto
from grpo_mmpc.ablation.results import Results
from grpo_mmpc.ablation.spec import BASE
from grpo_mmpc.reports.common.labels import listed, metric_label, plural, signed
from grpo_mmpc.statistics.verdicts import BETTER, NO_EVIDENCE, WORSE

FEW_SEEDS = 5
SEEDS_OF_PROMISE, MIXES_OF_PROMISE = 3, 3
"""Fewest for which the chance of a false finding was simulated to stay at 5%."""


def findings(comparison: AblationComparison, front: Pareto | None) -> list[str]:
    """Verdicts: first on metrics that no mix was trained on, then mix by mix, then what could not be told."""
    if not comparison.rows:
        return ["No run has finished: there is nothing to compare yet."]
    if comparison.reference != BASE and comparison.reference not in comparison.mixes:
        return [f"No run of the reference {comparison.reference} has finished: levels are shown, differences are not."]
    told = [_lead(comparison)]
    for mix in comparison.mixes:
        if mix != comparison.reference:
            told += _of_mix(comparison, mix)
    if front is not None:
        told.append(_front(front))
    return told


def cautions(comparison: AblationComparison, results: Results) -> list[str]:
    """How far to trust it."""
    told = []
    seeds = len(comparison.seeds)
    if comparison.rows:
        told.append(_on_seeds(seeds, _shared_seeds(comparison)))
    if comparison.family:
        told.append(_on_chance(comparison))
    told += _on_data_order(results)
    uneven = [mix for mix in comparison.mixes if len(results.of(mix)) < seeds]
    if uneven:
        told.append(
            f"Fewer seeds than others: {', '.join(uneven)}; they are compared on the seeds they share with the reference."
        )
    return told


def untrained_rows(comparison: AblationComparison) -> list[MetricRow]:
    """Metrics that no mix was trained on."""
    return [row for row in comparison.rows if not row.trained_by and row.n_scored]


def _lead(comparison: AblationComparison) -> str:
    """Mixes that win on what nobody was paid for."""
    rows = untrained_rows(comparison)
    reference = _reference(comparison)
    if not rows:
        return "Every metric shown was a reward of some mix, so no win can be told from having been paid for it."
    wins = {
        mix: (
            [row for row in rows if _cell(row, mix).verdict == BETTER],
            [row for row in rows if _cell(row, mix).verdict == WORSE],
        )
        for mix in comparison.mixes
        if mix != comparison.reference
    }
    clean = [f"{mix} ({_labels(better)})" for mix, (better, worse) in wins.items() if better and not worse]
    mixed = [
        f"{mix} (better in {_labels(better)}, worse in {_labels(worse)})"
        for mix, (better, worse) in wins.items()
        if better and worse
    ]
    lost = [f"{mix} ({_labels(worse)})" for mix, (better, worse) in wins.items() if worse and not better]
    parts = [
        f"{word} {listed(names)}"
        for word, names in (("better, and not found worse in these:", clean), ("both:", mixed), ("only worse:", lost))
        if names
    ]
    what = f"On the {plural(len(rows), 'metric')} that no mix was trained on, against {reference}"
    if parts:
        return f"{what}: {'; '.join(parts)}."
    tested = any(cell.verdict == NO_EVIDENCE for row in rows for cell in row.cells)
    return f"{what}: {'no evidence that any mix differs' if tested else 'nothing could be compared'}."


def _of_mix(comparison: AblationComparison, mix: str) -> list[str]:
    cells = [(row, _cell(row, mix)) for row in comparison.rows]
    claims = []
    for word in (BETTER, WORSE):
        named = [
            f"{_name(row, cell)} {signed(cell.difference.value)}"
            for row, cell in cells
            if cell.verdict == word and cell.difference
        ]
        if named:
            claims.append(f"{word} in {listed(named)}")
    open_ = sum(cell.verdict == NO_EVIDENCE for _, cell in cells)
    rest = f"no evidence in {open_} of {plural(len(cells), 'metric')}" if open_ else ""
    if not claims and not rest:
        return []
    return [f"{mix} against {_reference(comparison)}: {'; '.join([*claims, rest] if rest else claims)}."]


def _front(front: Pareto) -> str:
    plane = f"{metric_label(front.x.metric)} and {metric_label(front.y.metric)}"
    told = f"Best in {plane} together, by means (the front of the picture): {listed(front.front)}."
    if len(front.front) == len(front.points) > 1:
        told += " No mix is ahead of another in both."
    return told


def _shared_seeds(comparison: AblationComparison) -> dict[str, int]:
    """By mix, seeds that its comparison with the reference rests on."""
    if not comparison.rows:
        return {}
    return {cell.mix: cell.num_seeds for cell in comparison.rows[0].cells if cell.mix != comparison.reference}


def _on_chance(comparison: AblationComparison) -> str:
    told = f"p-values are corrected for all {plural(comparison.family, 'comparison')} of the matrix (Holm)"
    shared, seeds = _shared_seeds(comparison), len(comparison.seeds)
    is_complete = all(number == seeds for number in shared.values())
    if seeds >= SEEDS_OF_PROMISE and len(comparison.mixes) >= MIXES_OF_PROMISE and is_complete:
        told += ": the chance of any false better or worse in it is kept at 5%"
    elif seeds == 1:
        told += ", for the luck of items only: that of seeds is in none of them"
    else:
        told += (
            f", but with fewer than {SEEDS_OF_PROMISE} seeds or {MIXES_OF_PROMISE} mixes, or with runs missing, the chance of "
            "a false better or worse can be above 5%"
        )
    return f"{told}. No evidence is not evidence of no difference."


def _on_data_order(results: Results) -> list[str]:
    """Whether mixes saw the same prompts, as far as that could be checked."""
    order = results.data_order
    told = []
    differing = {seed: where for seed, where in order.items() if where}
    if differing:
        where = "; ".join(f"seed {seed}: {text}" for seed, text in differing.items())
        told.append(
            f"Mixes did NOT see the same prompts in the same order ({where}): differences are not those of rewards alone."
        )
    same = [seed for seed, where in order.items() if where == ""]
    if same:
        within = "Within every seed" if len(same) == len(order) else f"Within {_seeds(same)}"
        told.append(f"{within}, all mixes saw the same prompts in the same order (checked in the saved rollouts).")
    unknown = [seed for seed, where in order.items() if where is None]
    if unknown:
        told.append(
            f"Whether all mixes saw the same prompts in the same order was not checked for {_seeds(unknown)}: there is only "
            "one mix, or a run without rollouts."
        )
    return told


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {listed([str(seed) for seed in sorted(seeds)])}"


def _on_seeds(seeds: int, shared: Mapping[str, int]) -> str:
    if seeds == 1:
        return (
            "One seed: intervals are over items alone and say what these very runs do. Whether a mix would do the same with "
            "another seed cannot be told."
        )
    told = (
        f"{plural(seeds, 'seed')}: intervals and verdicts are meant for other seeds and other items like these. "
        f"The spread over seeds is estimated from {seeds} values a mix, which intervals pay for by their width."
    )
    fewest = min(shared.values(), default=seeds)
    if fewest < seeds:
        named = [mix for mix, number in shared.items() if number == fewest]
        told += f" The comparison of {listed(named)} rests on {plural(fewest, 'seed')}."
    if fewest < FEW_SEEDS:
        told += (
            " So few can show differences that are large beside that spread; they cannot show small ones, nor that a mix fails "
            "now and then, and a mix that is much less stable than the others gets intervals that are too narrow."
        )
    return told


def _reference(comparison: AblationComparison) -> str:
    return "the model before training" if comparison.reference == BASE else comparison.reference


def _cell(row: MetricRow, mix: str) -> MixCell:
    return next(cell for cell in row.cells if cell.mix == mix)


def _name(row: MetricRow, cell: MixCell) -> str:
    return metric_label(row.metric) + ("*" if cell.was_reward else "")


def _labels(rows: Sequence[MetricRow]) -> str:
    return ", ".join(metric_label(row.metric) for row in rows)
