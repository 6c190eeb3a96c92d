"""Comparisons as CSV (every cell, for further analysis) and LaTeX (for a paper)."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.records import Cell, Comparison, TaskComparison
from grpo_mmpc.reports.common.labels import metric_label, p_value, plural, task_label, words
from grpo_mmpc.reports.run.run_files import read_run
from grpo_mmpc.statistics.verdicts import NO_INTERVAL

COLUMNS = (
    *("evaluation_before", "evaluation_after", "task", "group", "category", "metric", "before", "after", "delta"),
    *("low", "high", "low_corrected", "high_corrected", "p", "p_holm", "effect_size", "n", "n_scored", "was_reward"),
    "verdict",
)
_LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    # A bracket or star at the start of a row would be read as an argument of the \\ before it.
    **{"[": "{[}", "*": "{*}"},
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def write_tables(run: Path, *, folder: Path) -> list[Path]:
    """Write ``results.csv`` and ``results.tex`` of a run's comparison.

    Args:
        run: Run folder with ``comparison.json``.
        folder: Where to write; made if missing.

    Returns:
        The two paths.

    Raises:
        EvaluationError: The run has no comparison.
    """
    comparison = read_run(run).comparison
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
    """Every cell of every comparison as one row; empty where there is no value.

    ``group`` is items (all of them), macro (mean over categories; n counts categories) or category.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for comparison in comparisons:
            names = [comparison.before_folder or comparison.before, comparison.after_folder or comparison.after]
            for task in comparison.tasks:
                writer.writerows([*names, task.task, *row] for row in _rows(task))


def write_latex(path: Path, comparisons: Sequence[Comparison], *, by_category: bool = False) -> None:
    """One table per task and comparison, for LaTeX with booktabs; with ``by_category`` also one per group of items."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [r"% Needs \usepackage{booktabs} and \usepackage[T1]{fontenc}. Written by grpo-mmpc."]
    for comparison in comparisons:
        for task in comparison.tasks:
            lines += _latex(task_label(task.task), task.metrics, task, comparison, family="metrics")
            if by_category:
                macro = f"{task_label(task.task)}, mean over categories"
                lines += _latex(macro, task.macro, task, comparison, family="macro")
                for category, cells in task.categories.items():
                    title = f"{task_label(task.task)}, {words(category)}"
                    lines += _latex(title, cells, task, comparison, family="categories")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(task: TaskComparison) -> Iterator[list[object]]:
    for group, cells in (("items", task.metrics), ("macro", task.macro)):
        for metric, cell in cells.items():
            yield [group, "", metric, *_values(cell)]
    for category, cells in task.categories.items():
        for metric, cell in cells.items():
            yield ["category", category, metric, *_values(cell)]


def _values(cell: Cell) -> list[object]:
    interval, corrected = cell.interval or (None, None), cell.corrected or (None, None)
    numbers = [cell.before, cell.after, cell.delta, *interval, *corrected, cell.p, cell.p_holm, cell.effect_size]
    return [*numbers, cell.n, cell.n_scored, str(cell.was_reward).lower(), cell.verdict]


def _latex(
    title: str, cells: Mapping[str, Cell], task: TaskComparison, comparison: Comparison, *, family: str
) -> Iterator[str]:
    percent = escape_latex(comparison.percent)
    yield ""
    yield r"\begin{tabular}{lrrrlrrr}"
    yield r"\toprule"
    yield rf"{escape_latex(title)} & Before & After & Change & {percent} interval & $p$ & $d_z$ & $n$ \\"
    yield r"\midrule"
    for metric, cell in cells.items():
        if cell.n_scored:
            yield _latex_row(metric, cell)
    yield r"\bottomrule"
    yield r"\end{tabular}"
    sides = " against ".join(" ".join(name.split()) for name in (comparison.before, comparison.after))
    comparisons = plural(task.families.get(family, len(cells)), "comparison")
    yield f"% {sides}, paired by item. Intervals: bootstrap over items, {comparison.resamples} resamples. p: paired"
    yield f"% permutation test, corrected for {comparisons} (Holm). d_z: mean over standard deviation of the paired"
    yield "% differences. * = trained on."


def _latex_row(metric: str, cell: Cell) -> str:
    star = "$^{*}$" if cell.was_reward else ""
    if cell.interval:
        interval = f"$[{cell.interval[0]:+.3f}, {cell.interval[1]:+.3f}]$"
    else:
        interval = "none" if cell.verdict == NO_INTERVAL else "too few items"
    effect = "--" if cell.effect_size is None else f"${cell.effect_size:+.2f}$"
    p = "--" if cell.p_holm is None else f"${p_value(cell.p_holm)}$"
    numbers = f"{cell.before:.3f} & {cell.after:.3f} & ${cell.delta:+.3f}$"
    return rf"{escape_latex(metric_label(metric))}{star} & {numbers} & {interval} & {p} & {effect} & {cell.n_scored} \\"


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it, on one line. Other scripts than Latin are left as they are: they need XeLaTeX."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
