"""Tables outside of pages: CSV files, LaTeX for a paper, text for a terminal."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from grpo_mmpc.reports.common.labels import listed
from grpo_mmpc.utils.console import columns, printable
from grpo_mmpc.utils.files import write_text

_LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    # A bracket or star at the start of a row would be read as an argument of the \\ before it.
    **{"[": "{[}", "*": "{*}"},
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_FORMULA = re.compile(r"[=+@\t\r]|-(?![\d.]+(e[-+]?\d+)?$)", re.IGNORECASE)
"""The beginning of what a spreadsheet takes for a formula; a negative number is none."""
LATEX_NEEDS = r"% Needs \usepackage{booktabs} and \usepackage[T1]{fontenc}. Written by grpo-mmpc."


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows below a line of column names; None is an empty cell.

    A text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    write_text(path, text.getvalue())


def harmless(cell: object) -> object:
    """Return a cell that no spreadsheet runs as a formula: with an apostrophe if need be."""
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r", " ")  # which the csv module does not quote
    return f"'{text}" if _FORMULA.match(cell) else text


def text_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Sequence[int] = (0,),
    spare: Sequence[str] = (),
    beside: Iterable[Sequence[str]] = (),
    width: int | None = None,
) -> list[str]:
    """Return lines of a table for a terminal, every column as wide as its widest cell.

    Columns of ``left`` are aligned at the left; the others hold numbers. Columns of ``spare`` are
    left out where the table is wider than the terminal (or ``width``), as many as need be, in this
    order; then a last line names them. A table is as wide as if it held the rows of ``beside`` too,
    those of its neighbours.
    """
    table = [[printable(cell) for cell in row] for row in (head, *rows)]
    cells = [*table, *([printable(cell) for cell in row] for row in beside)]
    widths = {column: max(len(row[column]) for row in cells) for column in range(len(head))}
    gone: list[str] = []
    for name in spare:
        if sum(widths.values()) + 2 * (len(widths) - 1) <= (columns() if width is None else width):
            break
        del widths[head.index(name)]
        gone.append(name)
    lines = [
        "  ".join(
            row[column].ljust(width) if column in left else row[column].rjust(width) for column, width in widths.items()
        ).rstrip()
        for row in table
    ]
    return [*lines, f"(a wider terminal also shows {listed([name.strip() for name in gone])})"] if gone else lines


def latex_table(columns: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return lines of a booktabs table; every cell must be LaTeX already, see ``escape_latex``.

    ``columns`` is the alignment of each, such as ``lrr``.
    """
    body = [rf"{' & '.join(row)} \\" for row in rows]
    begin = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rf"{' & '.join(head)} \\", r"\midrule"]
    return [*begin, *body, r"\bottomrule", r"\end{tabular}"]


def escape_latex(text: str) -> str:
    """Return text for LaTeX, on one line; scripts other than Latin stay, for XeLaTeX."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
