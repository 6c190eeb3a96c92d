"""Print a validation report for a person at an 80-column terminal."""

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from grpo_mmpc.catalogue.interactions_summary import InteractionsSummary
from grpo_mmpc.catalogue.validation import CategoryCounts, ValidationReport
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.console import printable

WIDTH = 80
SHOWN_ROWS = 20
_SHOWN_CATEGORIES = 40
_SHOWN_WARNINGS = 20
_HEADS = ("items", "no title", "no descr.", "no image", "broken")


def format_report(report: ValidationReport) -> str:
    """Return the report as plain text, no line longer than :data:`WIDTH` columns."""
    return "\n".join(_lines(report))


def _lines(report: ValidationReport) -> Iterator[str]:
    yield from _wrap(f"Catalogue {report.folder} ({report.items_file}, {_count(report.rows_read, 'row')})")
    yield ""
    yield from _category_table(report.categories)
    yield ""
    if report.further_texts:
        yield from _wrap(further_texts(report))
    if report.duplicate_ids:
        rows = _count(report.duplicate_ids, "row")
        yield from _wrap(f"Repeated item_id: {rows} set aside, the first of each is kept.")
    yield from _near_duplicates(report)
    if report.interactions is not None:
        yield ""
        yield from _interactions(report.interactions)
    if report.quarantined:
        yield ""
        yield f"{_count(len(report.quarantined), 'broken row')} of {report.items_file}, left out of training:"
        yield from broken_rows(report.quarantined)
    if report.warnings:
        yield ""
        yield "Warnings:"
        yield from _bullets(report.warnings[:_SHOWN_WARNINGS])
        yield from _more(len(report.warnings) - _SHOWN_WARNINGS)
    yield ""
    yield from _wrap(verdict(report))


def _category_table(categories: Sequence[CategoryCounts]) -> list[str]:
    from rich.console import Console  # heavy: imported on use
    from rich.table import Table

    rows = [(c.items, c.missing_title, c.missing_description, c.missing_image, c.broken) for c in categories]
    totals = [f"{sum(column):,}" for column in zip(*rows, strict=True)] or ["0"] * len(_HEADS)
    numbers_width = sum(2 + max(len(head), len(total)) for head, total in zip(_HEADS, totals, strict=True))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("category", no_wrap=True, overflow="ellipsis", max_width=WIDTH - numbers_width)
    for head in _HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    for category, numbers in list(zip(categories, rows, strict=True))[:_SHOWN_CATEGORIES]:
        table.add_row(printable(category.category), *(f"{number:,}" for number in numbers))
    for line in _more(len(rows) - _SHOWN_CATEGORIES):
        table.add_row(line)
    table.add_row("total", *totals)
    text = io.StringIO()
    Console(file=text, width=WIDTH, markup=False, emoji=False, highlight=False, color_system=None).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def _near_duplicates(report: ValidationReport) -> Iterator[str]:
    if not report.near_duplicate_groups:
        yield from _wrap("Near-duplicates (title or image nearly the same): none.")
        return
    yield from _wrap(
        f"Near-duplicates (title or image nearly the same): {_count(report.near_duplicate_items, 'item')} in "
        f"{_count(report.near_duplicate_groups, 'group')}, kept on one side of every split. The largest:"
    )
    for group in report.largest_groups:
        ids = ", ".join(group.item_ids) + (" ..." if group.items > len(group.item_ids) else "")
        title = f": {_shorten(group.title, 40)}" if group.title else ""
        yield from _bullets([f"{_count(group.items, 'item')} ({ids}){title}"])


def _interactions(summary: InteractionsSummary) -> Iterator[str]:
    yield from _wrap(
        f"Interactions ({summary.file}): {_count(summary.rows_read, 'row')}, {_count(summary.users, 'user')}, "
        f"{_count(summary.items, 'item')}, {summary.repeated:,} repeated (user, item) pairs."
    )
    unknown = summary.unknown_items
    if unknown:
        examples = ", ".join(list(unknown)[:5]) + (" ..." if len(unknown) > 5 else "")
        rows = _count(sum(unknown.values()), "row")
        yield from _bullets(
            [f"{rows} with an item_id that no usable item has ({len(unknown):,} different): {examples}"]
        )
    yield from _bullets(summary.warnings)
    if summary.broken:
        yield f"{_count(len(summary.broken), 'broken row')} of {summary.file}:"
        yield from broken_rows(summary.broken)


def broken_rows(rows: Sequence[Quarantined]) -> Iterator[str]:
    """List broken rows, each kind of fault once with the number of rows that share it."""
    alike = kinds_of_fault(rows)
    for first, *others in alike[:SHOWN_ROWS]:
        item = f" ({_shorten(first.item_id, 30)})" if first.item_id else ""
        yield from _bullets([f"{first.file} row {first.row}{item}: {first.reason}"])
        if others:
            numbers = ", ".join(str(row.row) for row in others[:5]) + (", ..." if len(others) > 5 else "")
            yield from _wrap(f"the same in {_count(len(others), 'more row')}: {numbers}", first="    ", rest="    ")
    yield from _more(len(alike) - SHOWN_ROWS)


def kinds_of_fault(rows: Iterable[Quarantined]) -> list[list[Quarantined]]:
    """Return rows that were set aside, those with the same kind of reason together."""
    alike: dict[str, list[Quarantined]] = {}
    for row in rows:
        alike.setdefault(kind_of_reason(row), []).append(row)
    return list(alike.values())


def kind_of_reason(row: Quarantined) -> str:
    """Return a reason without its row's names and numbers, which tells kinds of faults apart."""
    text = row.reason
    if row.item_id:
        text = re.sub(rf"(?<!\w){re.escape(row.item_id)}(?!\w)", "*", text)
    return re.sub(r"image \S+|https?://\S+|'[^']*'|\d[\d,.]*", "*", text)


def _more(hidden: int) -> Iterator[str]:
    if hidden > 0:
        yield f"  ... and {hidden:,} more"


def verdict(report: ValidationReport) -> str:
    """Return how many rows can be used, as a sentence."""
    if not report.items:
        return "No usable item: correct the rows above first."
    usable = f"{_count(report.items, 'usable item')} of {_count(report.rows_read, 'row')}"
    return f"{usable}; broken rows are left out." if report.is_broken else f"{usable}; nothing is broken."


def further_texts(report: ValidationReport) -> str:
    """Return how many items have further right texts, as a sentence."""
    counts = " and ".join(f"{name} of {_count(count, 'item')}" for name, count in report.further_texts.items())
    return f"Further texts that are right as well: {counts}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _bullets(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from _wrap(text, first="  - ", rest="    ")


def _wrap(text: str, *, first: str = "", rest: str = "  ") -> list[str]:
    lines = textwrap.wrap(printable(text), WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
    return lines or [first]


def _shorten(text: str, width: int) -> str:
    """Cut a text to this many terminal columns; East Asian wide characters take two."""
    from rich.text import Text  # heavy: imported on use

    cut = Text(printable(text))
    cut.truncate(width, overflow="ellipsis")
    return cut.plain.rstrip()
