"""``grpo-mmpc compare``: paired differences of evaluations, and what they do and do not support."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.utils.console import Progress, printable
from grpo_mmpc.utils.options import output_file

if TYPE_CHECKING:
    from grpo_mmpc.evaluation.records import Cell, Comparison, TaskComparison

_NAME_WIDTH = 28


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "compare",
        help="compare evaluations, paired by item",
        description=(
            "Before against after on the items that both evaluations hold: bootstrap intervals, permutation p-values "
            "corrected for everything in the table (Holm), effect sizes, and what follows in words. Any two "
            "evaluations of the same suite, controls too; several are each compared with the first, and corrected "
            "together. Metrics that a compared checkpoint was trained on are marked with *."
        ),
        epilog=(
            "example: grpo-mmpc compare runs/nano/evaluations/base runs/nano/evaluations/final --by-category "
            "--csv differences.csv"
        ),
    )
    parser.add_argument("before", type=Path, metavar="EVAL_A", help="evaluation folder, RUN/evaluations/NAME[/SUITE]")
    parser.add_argument("after", type=Path, metavar="EVAL_B", help="the same of another model or control")
    parser.add_argument("others", type=Path, metavar="EVAL_C", nargs="*", help="more to compare with EVAL_A")
    parser.add_argument("--by-category", action="store_true", help="also print a table per category and their mean")
    parser.add_argument(
        "--group-by",
        metavar="KIND",
        help="attribute whose items hang together, such as brand; near-duplicates and variants always do",
    )
    parser.add_argument("--out", type=output_file, metavar="FILE", help="write all numbers, by category too, as JSON")
    parser.add_argument("--csv", type=output_file, metavar="FILE", help="the same as CSV, one row per number")
    parser.add_argument("--latex", type=output_file, metavar="FILE", help="write the tables as LaTeX (booktabs)")
    parser.add_argument(
        "--html", type=output_file, metavar="FILE", help="write a page: what changed, items to look at, categories"
    )
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="bootstrap resamples (%(default)s)")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print tables and findings per task, write the files that are asked for."""
    # heavy: imported on use
    from grpo_mmpc.errors import EvaluationError
    from grpo_mmpc.evaluation.comparison import compare_evaluations
    from grpo_mmpc.evaluation.records import write_comparisons
    from grpo_mmpc.reports.run.comparison_page import write_comparison_page
    from grpo_mmpc.reports.run.export import write_csv, write_latex

    if arguments.resamples < 100:
        raise EvaluationError(f"--resamples is {arguments.resamples}; an interval needs at least 100, better 10000")
    if arguments.html is not None and arguments.others:
        raise EvaluationError("--html is a page of two evaluations; leave the others out, or make a page of each")
    with Progress() as progress:
        comparisons = compare_evaluations(
            arguments.before,
            [arguments.after, *arguments.others],
            resamples=arguments.resamples,
            group_by=arguments.group_by,
            progress=progress,
        )
    for comparison in comparisons:
        lines = [f"before: {comparison.before_folder}", f"after:  {comparison.after_folder}", ""]
        for task in comparison.tasks:
            lines += [*_told(task, comparison, by_category=arguments.by_category), ""]
        print("\n".join(map(printable, lines)))

    if arguments.out is not None:
        write_comparisons(arguments.out, comparisons)
    if arguments.csv is not None:
        write_csv(arguments.csv, comparisons)
    if arguments.latex is not None:
        write_latex(arguments.latex, comparisons, by_category=arguments.by_category)
    if arguments.html is not None:
        write_comparison_page(arguments.html, comparisons[0])
    for path in (arguments.out, arguments.csv, arguments.latex, arguments.html):
        if path is not None:
            print(f"written to {path}")
    if not arguments.by_category:
        print("by category: add --by-category, or --csv FILE")
    return 0


def _told(task: "TaskComparison", comparison: "Comparison", *, by_category: bool) -> list[str]:
    """Everything about one task, as wide as the terminal, at most 110 columns."""
    from grpo_mmpc.reports.common.findings import terminal_lines
    from grpo_mmpc.reports.common.labels import plural, words
    from grpo_mmpc.reports.run.findings import findings

    left_out = f"; left out: {task.before_only} only before, {task.after_only} only after"
    unpaired = left_out if task.before_only or task.after_only else ""
    if task.held_back:
        unpaired += f"; left out: {task.held_back} that chose the best checkpoint"
    products = "" if task.groups is None else f" of {task.groups:,} products (resampled as wholes)"
    lines = [f"{task.task}: {plural(task.n, 'item')}{products}{unpaired}", *_table(task.metrics, comparison)]
    if by_category:
        lines += ["", f"{task.task}, mean over {plural(len(task.categories), 'category')}"]
        lines += _table(task.macro, comparison, counted="groups")
        for category, cells in task.categories.items():
            items = max((cell.n for cell in cells.values()), default=0)
            lines += ["", f"{task.task}, {words(category)}: {plural(items, 'item')}", *_table(cells, comparison)]
    return [*lines, "", *terminal_lines(findings(task))]


def _table(cells: Mapping[str, "Cell"], comparison: "Comparison", *, counted: str = "items") -> list[str]:
    from grpo_mmpc.reports.common.tables import text_table

    interval = f"{comparison.percent} interval"
    head = ("metric", "before", "after", "change", interval, "p (Holm)", "effect", counted, "verdict")
    rows = [_row(name, cell) for name, cell in cells.items()]
    all_rows = [_row(name, cell) for task in comparison.tasks for name, cell in task.metrics.items()]
    spare = ("effect", counted, "p (Holm)", "change")  # before and after say it too
    return text_table(head, rows, left=(0, len(head) - 1), spare=spare, beside=all_rows)


def _row(name: str, cell: "Cell") -> list[str]:
    from grpo_mmpc.reports.common.labels import number, p_value, signed

    star = " *" if cell.was_reward else ""
    label = name if len(name + star) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - len(star) - 1]}…"
    if cell.before is None or cell.after is None or cell.delta is None:
        return [label + star, "-", "-", "-", "", "-", "-", "0", cell.verdict]
    return [
        label + star,
        *(number(value, digits=_decimals(value)) for value in (cell.before, cell.after)),
        signed(cell.delta, digits=_decimals(cell.delta)),
        " ".join(signed(end, digits=_decimals(end)) for end in cell.interval or ()),
        "-" if cell.p_holm is None else p_value(cell.p_holm),
        "-" if cell.effect_size is None else signed(cell.effect_size, digits=2),
        *(str(cell.n_scored), cell.verdict),
    ]


def _decimals(value: float) -> int:
    """Return the decimals that keep a number within eight characters: 0.1234, 23.45, 231.4."""
    return 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
