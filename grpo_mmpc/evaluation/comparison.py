"""Before against after, paired by item: evaluations in, the content of ``comparison.json`` out."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.best import decides, read_best
from grpo_mmpc.evaluation.checkpoints import latest_checkpoint
from grpo_mmpc.evaluation.compared_task import Settings, compare_task, with_verdicts
from grpo_mmpc.evaluation.controls import CONTROLS
from grpo_mmpc.evaluation.pairing import SUMMARY_FILE, find_evaluation, pair, read_evaluation
from grpo_mmpc.evaluation.records import Comparison, write_comparisons
from grpo_mmpc.evaluation.trained import trained_rewards


def compare_evaluations(
    before: Path,
    after: Path,
    *,
    reward_names: Mapping[str, Collection[str]],
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compute paired differences with bootstrap intervals, permutation p-values and effect sizes, per task, category and metric.

    Items are paired by (task, item_id); those that only one evaluation holds are left out and
    counted (``unpaired``). A pair counts for a metric when both sides are scored (``n_scored`` of
    ``n``). All metrics and both sides see the same resamples. See ``groups.Difference`` for
    intervals, ``permutation`` for p-values, ``statistics.verdict`` for the verdict.

    Args:
        before: Evaluation folder (``samples.parquet`` and ``summary.json``).
        after: The same of the other checkpoint.
        reward_names: By task, the rewards that were trained on, by their names in the mix; marks
            metrics as ``was_reward``.
        resamples: Bootstrap resamples, and the least number of flips of the permutation test.
        confidence: Of every interval; names its key (``ci95``). 1 minus it is the level of the
            verdicts.
        seed: Of the resampling. Same files, same seed: same result.

    Returns:
        The JSON object of ``comparison.json``. Each task holds ``metrics`` (over all items),
        ``macro`` (the unweighted mean over categories) and ``categories``. Their cells hold
        ``before``, ``after``, ``delta``, ``ci95``, ``p``, ``p_holm`` (corrected for all cells of
        the same kind in this task, ``families`` says how many), ``effect_size`` (see
        ``statistics.effect_size``) and ``verdict``. Cells of categories also hold
        ``ci95_corrected``, the interval at the confidence that holds for all categories of one
        metric at once (Bonferroni). Intervals and p-values are null where there are too few items
        or no values per item, values null where nothing was scored.

    Raises:
        EvaluationError: The two cannot be compared; says why.
    """
    [content] = compare_with(
        before, [after], reward_names=[reward_names], resamples=resamples, confidence=confidence, seed=seed
    )
    return content


def compare_with(
    before: Path,
    others: Sequence[Path],
    *,
    reward_names: Sequence[Mapping[str, Collection[str]]],
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    held_back: Callable[[str], bool] | None = None,
    by_category: bool = True,
) -> list[Comparison]:
    """Compare several evaluations with one: as ``compare_evaluations``, but corrected for all of them together.

    Args:
        before: What the others are compared with.
        others: Evaluation folders.
        reward_names: One per entry of ``others``.
        resamples: See ``compare_evaluations``; so are the rest, the result and the errors.
        confidence: See there.
        seed: See there.
        held_back: Items to leave out, by id.
        by_category: Also give categories, and correct for them.
    """
    first = read_evaluation(find_evaluation(before))
    evaluations, tasks = [], []
    settings = Settings(
        resamples=resamples, confidence=confidence, seed=seed, num_comparisons=len(others), by_category=by_category
    )
    for other, rewards in zip(others, reward_names, strict=True):
        second = read_evaluation(find_evaluation(other))
        paired = pair(before=first, after=second, held_back=held_back)
        evaluations.append(second)
        tasks.append(
            {task: compare_task(task, scores, rewards.get(task, ()), settings) for task, scores in paired.items()}
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
            rewards={task: sorted(names) for task, names in rewards.items()},
            tasks=list(compared.values()),
            controls={},
            best=None,
        )
        for second, rewards, compared in zip(evaluations, reward_names, tasks, strict=True)
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
    """Compare two evaluated checkpoints of a run, and its controls, and write ``comparison.json`` into its folder.

    The file also holds ``controls``: by name, tasks of the control against ``after`` ("worse" means
    that the control is).

    Args:
        run: Run folder; its ``config.yaml`` says which rewards were trained on.
        before: Checkpoint under ``evaluations/``.
        after: The same; None takes ``reported_checkpoint``. Items that chose it are left out.
        suite: Suite that both were evaluated on.
        resamples: Bootstrap resamples.
        seed: Of the resampling.

    Raises:
        EvaluationError: There is nothing to compare with ``before``, or the two cannot be compared.
    """
    after = after or reported_checkpoint(run, suite=suite)
    if after is None or after == before:
        raise EvaluationError(
            f"{run}: nothing to compare with {before!r}; expected evaluations/final/{suite} or "
            f"evaluations/checkpoint-N/{suite}; `grpo-mmpc evaluate` adds one"
        )
    held_back = chosen_on(run, after)
    folders = run / "evaluations"
    rewards = trained_rewards(run)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "held_back": held_back}
    [result] = compare_with(folders / before / suite, [folders / after / suite], reward_names=[rewards], **options)
    controls = _controls(folders, after=after, suite=suite)
    compared = compare_with(
        folders / after / suite,
        list(controls.values()),
        reward_names=[rewards] * len(controls),
        by_category=False,
        **options,
    )
    result = replace(
        result,
        controls={name: control.tasks for name, control in zip(controls, compared, strict=True)},
        best=read_best(run) if held_back is not None else None,
    )
    path = run / "comparison.json"
    write_comparisons(path, [result])
    return path


def reported_checkpoint(run: Path, *, suite: str = "cqbench") -> str | None:
    """The checkpoint that a run is judged by: the best one where one was chosen, else the latest evaluated one."""
    best = read_best(run)
    return best.checkpoint if best is not None else latest_checkpoint(run, suite=suite)


def chosen_on(run: Path, checkpoint: str) -> Callable[[str], bool] | None:
    """Which items chose this checkpoint as the best one of its run, by id; None if it was not chosen."""
    best = read_best(run)
    if best is None or best.checkpoint != checkpoint:
        return None
    return partial(decides, items=best.items)


def _controls(folders: Path, *, after: str, suite: str) -> dict[str, Path]:
    """Evaluated controls by name; of those that ask a policy, the ones of ``after``.

    One that was scored on other items, in another mode, by another version or by other encoders is
    left out: it says nothing about these numbers.
    """
    judged = _header(folders / after / suite)
    found = {}
    for name, control in CONTROLS.items():
        names = [f"control-{name}"]
        if control.asks_policy:
            final = _header(folders / "final" / suite)
            # The final policy usually is the last checkpoint too, and its controls are named after
            # it.
            same = final is not None and judged is not None and final.get("policy") == judged.get("policy")
            names = [f"control-{name}-{policy}" for policy in (after, *(["final"] if same else []))]
        for folder in (folders / name / suite for name in names):
            header = _header(folder)
            if header is not None and judged is not None and _comparable(header, judged):
                found[name] = folder
                break
    return found


def _header(folder: Path) -> dict[str, Any] | None:
    """``summary.json``; None where there is none."""
    path = folder / SUMMARY_FILE
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _comparable(control: Mapping[str, Any], judged: Mapping[str, Any]) -> bool:
    keys = ("version", "mode", "settings")
    if any(control.get(key) != judged.get(key) for key in keys):
        return False
    return all(
        cells["metrics"][name]["n"] == judged["tasks"][task]["metrics"][name]["n"]
        for task, cells in control["tasks"].items()
        for name in cells["metrics"]
        if name in judged["tasks"].get(task, {}).get("metrics", {})
    )
