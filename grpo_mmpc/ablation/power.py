"""What a grid can show, told before it runs: nothing at all, or differences of about which size."""

import math
from collections.abc import Sequence

from grpo_mmpc.ablation.comparison import CONFIDENCE, MIN_DEGREES
from grpo_mmpc.ablation.grid import PlannedRun
from grpo_mmpc.ablation.spec import BASE, AblationSpec, combinations
from grpo_mmpc.statistics.verdicts import min_items

_SPREAD = 0.3
"""A usual standard deviation of an item's difference, of metrics between 0 and 1."""
_REACH = 1.96 + 0.84
"""Standard errors of a difference that a test of 5 % shows with a chance of 80 %."""


def why_nothing_can_be_shown(spec: AblationSpec) -> str:
    """Return why no run of a grid can give any verdict, with the remedy; empty if some can."""
    mixes, seeds = len(combinations(spec)), len(spec.seeds)
    if mixes == 1 and spec.reference != BASE:
        return f"its only combination is the reference: there is nothing to compare; take reference: {BASE}"
    degrees = (mixes - 1 if spec.reference != BASE else mixes) * (seeds - 1)
    if seeds > 1 and degrees < MIN_DEGREES:
        return (
            f"{mixes} mixes over {seeds} seeds cannot show any difference, however large: the spread over seeds would "
            f"rest on {degrees} degree of freedom, and verdicts need {MIN_DEGREES}. Take a third seed or a third mix; "
            "or one seed, for what these very runs do"
        )
    return ""


def power_line(spec: AblationSpec, runs: Sequence[PlannedRun]) -> str:
    """Say which differences the held-out items can show; reads the catalogue.

    Raises:
        CatalogueError: It cannot be read.
    """
    # heavy: imported on use
    from grpo_mmpc.evaluation.suite import build_suite
    from grpo_mmpc.rollout.run_data import RunData

    config = runs[0].config
    rows = build_suite(config, RunData(config)).rows
    items = min(sum(row.task == task for row in rows) for task in config.evaluation_tasks)
    if items < min_items(CONFIDENCE):
        return f"power: {items} held-out items are too few for any verdict; hold out {min_items(CONFIDENCE)} at least"
    least = _REACH * _SPREAD / math.sqrt(items)
    seeds = len(spec.seeds)
    beyond = "what another seed would do cannot be told" if seeds == 1 else f"the spread over {seeds} seeds adds to it"
    return (
        f"power: {items:,} held-out items can show a difference of about {least:.3f} in a metric between 0 and 1 (an "
        f"item's difference spreads by {_SPREAD:g}, one comparison, chance 80 %); {beyond}"
    )
