"""Comparisons as CSV (every cell, for further analysis) and LaTeX (for a paper)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.records import Cell, Comparison, TaskComparison
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.reports.common import tables
from grpo_mmpc.reports.common.labels import metric_label, p_value, plural, task_label, words
from grpo_mmpc.reports.common.tables import escape_latex
from grpo_mmpc.statistics.verdicts import NO_INTERVAL
from grpo_mmpc.utils.files import write_text

COLUMNS = (
    *("evaluation_before", "evaluation_after", "task", "group", "category", "metric", "before", "after", "delta"),
    *("low", "high", "low_corrected", "high_corrected", "p", "p_holm", "effect_size", "n", "n_scored", "was_reward"),
    "verdict",
)


def write_tables(run: Path, *, folder: Path) -> list[Path]:
    """Write ``results.csv`` and ``results.tex`` of a run's comparison, and return the two paths.

    Raises:
        EvaluationError: The run has no comparison.
    """
    comparison = RunFolder(run, notes=[]).comparison
    if comparison is None:
        raise EvaluationError(
            f"{run} has no readable comparison.json, so there is nothing to put into tables; "
            "evaluate the base model and a checkpoint first (`grpo-mmpc evaluate`)"
        )
    csv_path, latex_path = folder / "results.csv", folder / "results.tex"
    write_csv(csv_path, [comparison])
    write_latex(latex_path, [comparison])
    return [csv_path, latex_path]


def write_csv(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write every cell of every comparison as one row; empty where there is no value.

    ``group`` is items (all of them), macro (mean over categories; n counts categories) or category.
    """
    tables.write_csv(path, COLUMNS, (row for comparison in comparisons for row in _csv_rows(comparison)))


def _csv_rows(comparison: Comparison) -> Iterator[list[object]]:
    sides = [comparison.before_folder or comparison.before, comparison.after_folder or comparison.after]
    for task in comparison.tasks:
        groups = [("items", "", task.metrics), ("macro", "", task.macro)]
        groups += [("category", category, cells) for category, cells in task.categories.items()]
        for group, category, cells in groups:
            for metric, cell in cells.items():
                yield [*sides, task.task, group, category, metric, *_values(cell)]


def _values(cell: Cell) -> list[object]:
    interval, corrected = cell.interval or (None, None), cell.corrected or (None, None)
    numbers = [cell.before, cell.after, cell.delta, *interval, *corrected, cell.p, cell.p_holm, cell.effect_size]
    return [*numbers, cell.n, cell.n_scored, str(cell.was_reward).lower(), cell.verdict]


def write_latex(path: Path, comparisons: Sequence[Comparison], *, by_category: bool = False) -> None:
    """Write a booktabs table per task and comparison, and per category if ``by_category``."""
    lines = [tables.LATEX_NEEDS]
    for comparison in comparisons:
        for task in comparison.tasks:
            label = task_label(task.task)
            lines += _latex(label, task.metrics, task, comparison, family="metrics")
            if by_category:
                lines += _latex(f"{label}, mean over categories", task.macro, task, comparison, family="macro")
                for category, cells in task.categories.items():
                    lines += _latex(f"{label}, {words(category)}", cells, task, comparison, family="categories")
    write_text(path, "\n".join(lines) + "\n")


def _latex(
    title: str, cells: Mapping[str, Cell], task: TaskComparison, comparison: Comparison, *, family: str
) -> list[str]:
    percent = escape_latex(comparison.percent)
    head = [escape_latex(title), "Before", "After", "Change", f"{percent} interval", "$p$", "$d_z$", "$n$"]
    rows = (_latex_row(metric, cell) for metric, cell in cells.items() if cell.n_scored)
    sides = " against ".join(" ".join(name.split()) for name in (comparison.before, comparison.after))
    comparisons = plural(task.families.get(family, len(cells)), "comparison")
    return [
        "",
        *tables.latex_table("lrrrlrrr", head, rows),
        f"% {sides}, paired by item. Intervals: bootstrap over items, {comparison.resamples} resamples. p: paired",
        f"% permutation test, corrected for {comparisons} (Holm). d_z: mean over standard deviation of the paired",
        "% differences. * = trained on.",
    ]


def _latex_row(metric: str, cell: Cell) -> list[str]:
    star = "$^{*}$" if cell.was_reward else ""
    if cell.interval:
        interval = f"$[{cell.interval[0]:+.3f}, {cell.interval[1]:+.3f}]$"
    else:
        interval = "none" if cell.verdict == NO_INTERVAL else "too few items"
    effect = "--" if cell.effect_size is None else f"${cell.effect_size:+.2f}$"
    p = "--" if cell.p_holm is None else f"${p_value(cell.p_holm)}$"
    numbers = [f"{cell.before:.3f}", f"{cell.after:.3f}", f"${cell.delta:+.3f}$"]
    return [f"{escape_latex(metric_label(metric))}{star}", *numbers, interval, p, effect, str(cell.n_scored)]
