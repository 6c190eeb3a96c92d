"""What a grid can show, told before it runs: nothing at all, or differences of about which size."""

from collections.abc import Sequence

from grpo_mmpc.ablation.comparison import MIN_DEGREES
from grpo_mmpc.ablation.grid import PlannedRun
from grpo_mmpc.ablation.spec import BASE, AblationSpec, combinations
from grpo_mmpc.statistics.power import what_items_show
from grpo_mmpc.statistics.verdicts import CONFIDENCE, min_items


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
    from grpo_mmpc.catalogue.run_data import RunData
    from grpo_mmpc.evaluation.suite import build_suite

    config = runs[0].config
    suite = build_suite(config, RunData(config), will_run=False)
    items = min(len(suite.rows_of(task)) for task in config.evaluation_tasks)
    shown = what_items_show(items, products=suite.num_products, confidence=CONFIDENCE)
    if items < min_items(CONFIDENCE):
        return f"power: {shown}"
    seeds = len(spec.seeds)
    beyond = "what another seed would do cannot be told" if seeds == 1 else f"the spread over {seeds} seeds adds to it"
    return f"power: {shown}; {beyond}"
