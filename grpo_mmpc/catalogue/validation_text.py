"""Prints a validation report for a person at an 80-column terminal."""

import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from grpo_mmpc.catalogue.interactions import InteractionsSummary
from grpo_mmpc.catalogue.validation import CategoryCounts, ValidationReport
from grpo_mmpc.types import Quarantined

WIDTH = 80
SHOWN_ROWS = 20
_SHOWN_CATEGORIES = 40
_SHOWN_WARNINGS = 20
_HEADS = ("items", "no title", "no descr.", "no image", "broken")


def format_report(report: ValidationReport) -> str:
    """The report as plain text, no line longer than :data:`WIDTH` columns, without the final line break."""
    return "\n".join(_lines(report))


def _lines(report: ValidationReport) -> Iterator[str]:
    yield from _wrap(f"Catalogue {report.folder} ({report.items_file}, {_count(report.rows_read, 'row')})")
    yield ""
    yield from _category_table(report.categories)
    yield ""
    if report.duplicate_ids:
        yield from _wrap(
            f"Repeated item_id: {_count(report.duplicate_ids, 'row')} set aside, the first of each is kept."
        )
    yield from _near_duplicates(report)
    if report.interactions is not None:
        yield ""
        yield from _interactions(report.interactions)
    if report.quarantined:
        yield ""
        yield f"{_count(len(report.quarantined), 'broken row')} of {report.items_file}, left out of training:"
        yield from _broken_rows(report.quarantined)
    if report.warnings:
        yield ""
        yield "Warnings:"
        for warning in report.warnings[:_SHOWN_WARNINGS]:
            yield from _wrap(warning, first="  - ", rest="    ")
        yield from _more(len(report.warnings) - _SHOWN_WARNINGS)
    yield ""
    yield from _wrap(_verdict(report))


def _category_table(categories: Sequence[CategoryCounts]) -> Iterator[str]:
    cells = [
        (c.category, (c.items, c.missing_title, c.missing_description, c.missing_image, c.broken)) for c in categories
    ]
    totals = tuple(sum(numbers[i] for _, numbers in cells) for i in range(len(_HEADS)))
    widths = [max(len(head), len(f"{total:,}")) for head, total in zip(_HEADS, totals, strict=True)]
    name_width = WIDTH - sum(widths) - 2 * len(widths)
    longest = max((_columns(name) for name, _ in cells), default=0)
    name_width = max(len("category"), min(name_width, longest))

    def line(name: str, numbers: Iterable[str]) -> str:
        return _fit(name, name_width) + "".join(f"  {n:>{w}}" for n, w in zip(numbers, widths, strict=True))

    yield line("category", _HEADS)
    for name, numbers in cells[:_SHOWN_CATEGORIES]:
        yield line(name, (f"{n:,}" for n in numbers))
    yield from _more(len(cells) - _SHOWN_CATEGORIES)
    yield line("total", (f"{n:,}" for n in totals))


def _near_duplicates(report: ValidationReport) -> Iterator[str]:
    if not report.near_duplicate_groups:
        yield from _wrap("Near-duplicates (same title or same image): none.")
        return
    yield from _wrap(
        f"Near-duplicates (same title or same image): {_count(report.near_duplicate_items, 'item')} in "
        f"{_count(report.near_duplicate_groups, 'group')}, kept on one side of every split. The largest:"
    )
    for group in report.largest_groups:
        ids = ", ".join(group.item_ids) + (" ..." if group.items > len(group.item_ids) else "")
        title = f": {_fit(group.title, 40).rstrip()}" if group.title else ""
        yield from _wrap(f"{_count(group.items, 'item')} ({ids}){title}", first="  - ", rest="    ")


def _interactions(found: InteractionsSummary) -> Iterator[str]:
    yield from _wrap(
        f"Interactions ({found.file}): {_count(found.rows_read, 'row')}, {_count(found.users, 'user')}, "
        f"{_count(found.items, 'item')}, {found.repeated:,} repeated (user, item) pairs."
    )
    if found.unknown_items:
        rows = sum(found.unknown_items.values())
        examples = ", ".join(list(found.unknown_items)[:5]) + (" ..." if len(found.unknown_items) > 5 else "")
        yield from _wrap(
            f"{_count(rows, 'row')} with an item_id that no usable item has ({len(found.unknown_items):,} different): {examples}",
            first="  - ",
            rest="    ",
        )
    for warning in found.warnings:
        yield from _wrap(warning, first="  - ", rest="    ")
    if found.broken:
        yield f"{_count(len(found.broken), 'broken row')} of {found.file}:"
        yield from _broken_rows(found.broken)


def _broken_rows(rows: Sequence[Quarantined]) -> Iterator[str]:
    for row in rows[:SHOWN_ROWS]:
        item = f" ({_fit(row.item_id, 30).rstrip()})" if row.item_id else ""
        yield from _wrap(f"{row.file} row {row.row}{item}: {row.reason}", first="  - ", rest="    ")
    yield from _more(len(rows) - SHOWN_ROWS)


def _more(hidden: int) -> Iterator[str]:
    if hidden > 0:
        yield f"  ... and {hidden:,} more, all in --json"


def _verdict(report: ValidationReport) -> str:
    if not report.items:
        return "No usable item: correct the rows above first."
    usable = f"{_count(report.items, 'usable item')} of {_count(report.rows_read, 'row')}"
    return f"{usable}; broken rows are left out." if report.is_broken else f"{usable}; nothing is broken."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _wrap(text: str, *, first: str = "", rest: str = "  ") -> list[str]:
    # Control characters of hostile rows must not reach the terminal.
    safe = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.wrap(safe, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [first]


def _columns(text: str) -> int:
    """Terminal columns a text takes; East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _fit(text: str, width: int) -> str:
    """Cut or pad a text to exactly this many terminal columns."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if _columns(text) > width:
        while text and _columns(text) > width - 3:
            text = text[:-1]
        text += "..."
    return text + " " * (width - _columns(text))
