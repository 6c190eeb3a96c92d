"""The comparison as ``results.csv`` (every cell, for further analysis) and ``results.tex`` (for a paper)."""

import csv
from collections.abc import Iterator
from pathlib import Path

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.report.cells import Cell, Comparison, TaskComparison
from grpo_mmpc.report.labels import metric_label, task_label
from grpo_mmpc.report.run_files import read_run

COLUMNS = (
    *("task", "group", "category", "metric", "before", "after", "delta", "low", "high", "low_corrected"),
    *("high_corrected", "n", "n_scored", "was_reward", "verdict"),
)
_LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
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
    folder.mkdir(parents=True, exist_ok=True)
    csv_path, latex_path = folder / "results.csv", folder / "results.tex"
    with csv_path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for task in comparison.tasks:
            writer.writerows(_rows(task))
    latex_path.write_text("\n".join(_latex(comparison)) + "\n", encoding="utf-8")
    return [csv_path, latex_path]


def _rows(task: TaskComparison) -> Iterator[list[object]]:
    """``group`` is items (all of them), macro (mean over categories; n counts categories) or category."""
    for group, cells in (("items", task.metrics), ("macro", task.macro)):
        for metric, cell in cells.items():
            yield [task.task, group, "", metric, *_values(cell)]
    for category, cells in task.categories.items():
        for metric, cell in cells.items():
            yield [task.task, "category", category, metric, *_values(cell)]


def _values(cell: Cell) -> list[object]:
    interval, corrected = cell.interval or (None, None), cell.corrected or (None, None)
    numbers = [cell.before, cell.after, cell.delta, *interval, *corrected]
    return [*numbers, cell.n, cell.n_scored, str(cell.was_reward).lower(), cell.verdict]


def _latex(comparison: Comparison) -> Iterator[str]:
    yield "% Needs \\usepackage{booktabs}. Written by grpo-mmpc report."
    for task in comparison.tasks:
        yield ""
        yield r"\begin{tabular}{lrrrl}"
        yield r"\toprule"
        percent = _escaped(comparison.percent)
        yield rf"{_escaped(task_label(task.task))} & Before & After & Change & {percent} interval \\"
        yield r"\midrule"
        for metric, cell in task.metrics.items():
            if cell.n_scored:
                yield _latex_row(metric, cell)
        yield r"\bottomrule"
        yield r"\end{tabular}"
        yield (
            rf"% {task.n} items, paired; {comparison.before} against {comparison.after}; "
            rf"percentile bootstrap over items, {comparison.resamples} resamples. * = trained on."
        ).replace("\n", " ")


def _latex_row(metric: str, cell: Cell) -> str:
    star = "$^{*}$" if cell.was_reward else ""
    interval = f"$[{cell.interval[0]:+.3f}, {cell.interval[1]:+.3f}]$" if cell.interval else "too few items"
    numbers = f"{cell.before:.3f} & {cell.after:.3f} & ${cell.delta:+.3f}$"
    return rf"{_escaped(metric_label(metric))}{star} & {numbers} & {interval} \\"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
