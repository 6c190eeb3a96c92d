"""``grpo-mmpc compare``: paired differences of two evaluations, with confidence intervals."""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_mmpc.report.cells import Cell, Comparison, TaskComparison


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "compare",
        help="compare two evaluations, paired by item",
        description=(
            "Before against after on the items that both evaluations hold, with bootstrap confidence intervals per "
            "task, category and metric. Metrics that a compared checkpoint was trained on are marked with *."
        ),
        epilog="example: grpo-mmpc compare runs/nano/evaluations/base runs/nano/evaluations/final",
    )
    parser.add_argument("before", type=Path, metavar="EVAL_A", help="evaluation folder, RUN/evaluations/NAME[/SUITE]")
    parser.add_argument("after", type=Path, metavar="EVAL_B", help="the same of the other model")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the comparison, by category, as JSON")
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="bootstrap resamples (%(default)s)")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print a table per task, write JSON if asked."""
    # heavy: imported on use
    from grpo_mmpc.errors import EvaluationError
    from grpo_mmpc.evaluation.checkpoints import run_of
    from grpo_mmpc.evaluation.comparison import compare_evaluations, write_json
    from grpo_mmpc.evaluation.pairing import find_evaluation
    from grpo_mmpc.evaluation.trained import trained_rewards
    from grpo_mmpc.report.cells import read_comparison

    if arguments.resamples < 100:
        raise EvaluationError(f"--resamples is {arguments.resamples}; an interval needs at least 100, better 10000")
    before, after = find_evaluation(arguments.before), find_evaluation(arguments.after)
    rewards: dict[str, set[str]] = defaultdict(set)
    for evaluation in (before, after):
        run_dir = run_of(evaluation)
        if run_dir is not None and evaluation.resolve().parent.name != "base":
            for trained_task, names in trained_rewards(run_dir).items():
                rewards[trained_task] |= set(names)
    content = compare_evaluations(before, after, reward_names=rewards, resamples=arguments.resamples)
    print(f"before: {content['before_folder']}\nafter:  {content['after_folder']}")
    comparison = read_comparison(content)
    for task in comparison.tasks:
        print("\n" + "\n".join(_table(task, comparison)))
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, content)
        print(f"\nwritten to {arguments.out}")
    else:
        print("\nby category: add --out FILE")
    return 0


def _table(task: "TaskComparison", comparison: "Comparison") -> list[str]:
    """The lines of one task, at most 100 columns for metric names of up to 30 characters."""
    left_out = f"; left out: {task.before_only} only before, {task.after_only} only after"
    unpaired = left_out if task.before_only or task.after_only else ""
    width = min(30, max([len(name) + 2 for name in task.metrics] + [12]))
    interval = f"{comparison.percent} interval"
    lines = [
        f"{task.task}: {task.n} items{unpaired}",
        f"{'metric':<{width}} {'before':>8} {'after':>8} {'change':>8}  {interval:^18} {'items':>7}  verdict",
    ]
    lines += [_line(name, cell, width=width) for name, cell in task.metrics.items()]
    if any(cell.was_reward for cell in task.metrics.values()):
        lines.append("* trained on: inflated by training, judge by the others")
    return lines


def _line(name: str, cell: "Cell", *, width: int) -> str:
    label = f"{name} *" if cell.was_reward else name
    if cell.before is None or cell.after is None or cell.delta is None:
        return f"{label:<{width}} {'-':>8} {'-':>8} {'-':>8}  {'':^18} {0:>7}  {cell.verdict}"
    interval = f"{cell.interval[0]:+.4f} {cell.interval[1]:+.4f}" if cell.interval else ""
    numbers = f"{cell.before:>8.4f} {cell.after:>8.4f} {cell.delta:>+8.4f}"
    return f"{label:<{width}} {numbers}  {interval:^18} {cell.n_scored:>7}  {cell.verdict}"
