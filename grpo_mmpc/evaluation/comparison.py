"""The comparison of evaluations, paired by item: any with any, and that of a run."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.best import decides
from grpo_mmpc.evaluation.compared_task import Settings, compare_task, with_verdicts
from grpo_mmpc.evaluation.controls import CONTROLS
from grpo_mmpc.evaluation.evaluation_folder import SUMMARY_FILE, find_evaluation, read_evaluation
from grpo_mmpc.evaluation.pairing import pair
from grpo_mmpc.evaluation.records import Comparison, write_comparisons
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.utils.sections import section

Rewards = Mapping[str, Collection[str]]
"""By task, the rewards that were trained on, by their names in the mix."""


def compare_evaluations(
    before: Path,
    others: Sequence[Path],
    *,
    rewards: Sequence[Rewards] | None = None,
    held_back: Callable[[str], bool] | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    by_category: bool = True,
    group_by: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Comparison]:
    """Compare evaluations with one, by task, category, metric: intervals, p-values, effect sizes.

    Items are paired by (task, item_id); those that only one evaluation holds are left out and
    counted. A pair counts for a metric when both sides are scored. All metrics and both sides see
    the same resamples.

    Args:
        before: Evaluation folder.
        others: Each is compared with ``before``, and all are corrected together.
        rewards: One per entry of ``others``; marks metrics as ``was_reward``. None takes those that
            either side was trained on, as their runs say: the base model and controls on none.
        held_back: Items to leave out, by id; None leaves out those on which one of the evaluated
            checkpoints was chosen as the best of its run.
        resamples: Bootstrap resamples, and the least number of flips of the permutation test.
        confidence: Of every interval. 1 minus it is the level of the verdicts.
        seed: Of the resampling.
        by_category: Also compare each category.
        group_by: Attribute whose items hang together, such as ``brand``, besides near-duplicates
            and variants of one product, which always do: they are resampled as wholes.
        progress: Called with a piece of work, groups of items done, and their number.

    Raises:
        EvaluationError: Two cannot be compared; says why.
    """
    first = read_evaluation(find_evaluation(before), group_by=group_by)
    folders = [find_evaluation(other) for other in others]
    if rewards is None:
        rewards = [_rewards_of(first.folder, folder) for folder in folders]
    if held_back is None:
        held_back = _held_back([first.folder, *folders])
    settings = Settings(
        resamples=resamples, confidence=confidence, seed=seed, num_comparisons=len(folders), by_category=by_category
    )
    evaluations, tasks = [], []
    for folder, names in zip(folders, rewards, strict=True):
        second = read_evaluation(folder, group_by=group_by)
        paired = pair(before=first, after=second, held_back=held_back)
        evaluations.append(second)
        tasks.append(
            {
                task: compare_task(task, scores, names.get(task, ()), settings, progress=progress)
                for task, scores in paired.items()
            }
        )
    for task in dict.fromkeys(task for compared in tasks for task in compared):
        sharing = [compared for compared in tasks if task in compared]
        decided = with_verdicts([compared[task] for compared in sharing], confidence=confidence)
        for compared, one in zip(sharing, decided, strict=True):
            compared[task] = one
    return [
        Comparison(
            before=first.checkpoint,
            after=second.checkpoint,
            before_folder=str(first.folder),
            after_folder=str(second.folder),
            suite=first.suite,
            version=first.version,
            mode=first.mode,
            resamples=resamples,
            confidence=confidence,
            seed=seed,
            rewards={task: sorted(names) for task, names in trained.items()},
            tasks=list(compared.values()),
        )
        for second, trained, compared in zip(evaluations, rewards, tasks, strict=True)
    ]


def write_comparison(
    run: Path,
    *,
    before: str = "base",
    after: str | None = None,
    suite: str = "cqbench",
    resamples: int = 10_000,
    seed: int = 0,
) -> Path:
    """Write ``comparison.json`` of a run: two evaluated checkpoints, and its controls.

    Controls are compared with ``after``: "worse" means that the control is.

    The run's ``config.yaml`` says which rewards were trained on. ``before`` and ``after`` are
    checkpoints under ``evaluations/``; None takes the reported one. Items that chose it are left
    out.

    Raises:
        EvaluationError: There is nothing to compare with ``before``, or the two cannot be compared.
    """
    folder = RunFolder(run, suite=suite)
    after = after or folder.reported
    if after is None or after == before:
        raise EvaluationError(
            f"{run}: nothing to compare with {before!r}; expected evaluations/final/{suite} or "
            f"evaluations/checkpoint-N/{suite}; `grpo-mmpc evaluate` adds one"
        )
    chosen_on, rewards = _chosen_on(folder, after), folder.trained_rewards()
    controls = _controls(folder, after=after)

    def compared(base: str, others: list[str], *, by_category: bool) -> list[Comparison]:
        return compare_evaluations(
            run / "evaluations" / base / suite,
            [run / "evaluations" / other / suite for other in others],
            rewards=[rewards] * len(others),
            held_back=chosen_on or (lambda item_id: False),
            resamples=resamples,
            seed=seed,
            by_category=by_category,
        )

    [result] = compared(before, [after], by_category=True)
    beside = compared(after, list(controls.values()), by_category=False)
    result = replace(
        result,
        controls={name: control.tasks for name, control in zip(controls, beside, strict=True)},
        best=folder.best if chosen_on is not None else None,
    )
    path = run / "comparison.json"
    write_comparisons(path, [result])
    return path


def update_comparison(run: Path) -> Path | None:
    """Renew ``comparison.json`` of a run, unless it is newer; return its path if it was written.

    An interrupted run has evaluations but no comparison yet, or one that was made before it was
    resumed.
    """
    folder = RunFolder(run, notes=[])  # a broken file is for the report to name
    reported = RunFolder(run, suite=folder.suite).reported
    if reported in (None, "base") or "base" not in folder.summaries:
        return None
    path, known = run / "comparison.json", folder.comparison
    newest = max((evaluation / SUMMARY_FILE).stat().st_mtime_ns for evaluation in folder.evaluations.values())
    if known is not None and known.after == reported and path.stat().st_mtime_ns >= newest:
        return None
    resamples = section(folder.config, "evaluation").get("resamples")
    count = resamples if isinstance(resamples, int) else 10_000
    return write_comparison(run, after=reported, suite=folder.suite, resamples=count)


def _rewards_of(before: Path, after: Path) -> dict[str, set[str]]:
    rewards: dict[str, set[str]] = defaultdict(set)
    for evaluation in (before, after):
        run, name = RunFolder.of_evaluation(evaluation), evaluation.resolve().parent.name
        if run is not None and name != "base" and not name.startswith("control-"):
            for task, names in run.trained_rewards().items():
                rewards[task] |= set(names)
    return rewards


def _held_back(evaluations: Sequence[Path]) -> Callable[[str], bool] | None:
    runs = [(RunFolder.of_evaluation(evaluation), evaluation.resolve().parent.name) for evaluation in evaluations]
    choices = [choice for run, name in runs if run is not None and (choice := _chosen_on(run, name)) is not None]
    return (lambda item_id: any(chose(item_id) for chose in choices)) if choices else None


def _chosen_on(run: RunFolder, checkpoint: str) -> Callable[[str], bool] | None:
    if run.best is None or run.best.checkpoint != checkpoint:
        return None
    return partial(decides, items=run.best.items)


def _controls(run: RunFolder, *, after: str) -> dict[str, str]:
    """Return the folders of controls by name; of those that ask a policy, the ones of ``after``.

    One that was scored on other items, in another mode, by another version or by other encoders is
    left out: it says nothing about these numbers.
    """
    reported, policies = run.summary(after), [after]
    final = run.summary("final")
    # The final policy usually is the last checkpoint too, and its controls are named after it.
    if final and reported and final.get("policy") == reported.get("policy"):
        policies.append("final")
    controls = {}
    for name, control in CONTROLS.items():
        names = [f"control-{name}-{policy}" for policy in policies] if control.asks_policy else [f"control-{name}"]
        comparable = [folder for folder in names if reported and _comparable(run.summary(folder), reported)]
        if comparable:
            controls[name] = comparable[0]
    return controls


def _comparable(control: Mapping[str, Any], reported: Mapping[str, Any]) -> bool:
    if not control or any(control.get(key) != reported.get(key) for key in ("version", "mode", "settings")):
        return False
    return all(
        cells["metrics"][name]["n"] == reported["tasks"][task]["metrics"][name]["n"]
        for task, cells in control["tasks"].items()
        for name in cells["metrics"]
        if name in reported["tasks"].get(task, {}).get("metrics", {})
    )
