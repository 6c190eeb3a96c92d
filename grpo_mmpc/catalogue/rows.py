"""One raw row of a file, readable or not, and the rows of JSON lines."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from grpo_mmpc.catalogue.normalise import clean_text, readable_text
from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.files import JsonLine

MAX_CHARACTERS = 5_000
"""Of an identifier, a category, a title or a path: far above any real one, far below what a prompt
takes."""


class RowError(Exception):
    """A row cannot be used; the message becomes the reason in the quarantine."""


_NO_CELLS: Mapping[str, Any] = MappingProxyType({})


class RawRow(NamedTuple):
    """One data row as the file has it."""

    row: int
    """1-based data row; the header and blank lines are not counted."""
    values: Mapping[str, Any] = _NO_CELLS
    """Cells by column; empty when the row could not be read."""
    problem: str | None = None
    """The reason why the row could not be read."""

    def cells(self) -> Mapping[str, Any]:
        """Return the cells.

        Raises:
            RowError: The row could not be read.
        """
        if self.problem is not None:
            raise RowError(self.problem)
        return self.values

    def set_aside(self, reason: object, *, file: str, id_column: str = "item_id") -> Quarantined:
        """Return the row's entry in the quarantine, with its identifier if it can be read."""
        item_id = readable_text(self.values.get(id_column))
        return Quarantined(file=file, row=self.row, item_id=item_id, reason=str(reason))


def text_cell(values: Mapping[str, Any], column: str, *, one_line: bool = True) -> str | None:
    """Return a cell as :func:`~grpo_mmpc.catalogue.normalise.clean_text` reads it.

    Raises:
        RowError: The cell is neither text nor a number, or too long.
    """
    try:
        text = clean_text(values.get(column), one_line=one_line)
    except TypeError as e:
        raise RowError(f"{column} holds {e}") from e
    if text is not None and len(text) > MAX_CHARACTERS:
        raise RowError(f"{column} has {len(text):,} characters, the limit is {MAX_CHARACTERS:,}; shorten it")
    return text


def json_rows(lines: Iterable[JsonLine]) -> Iterator[RawRow]:
    """Number JSON lines as rows; those without an object have a problem."""
    for row, line in enumerate(lines, start=1):
        yield json_row(row, line) if line.values is None else RawRow(row=row, values=line.values)


def json_row(row: int, line: JsonLine) -> RawRow:
    """Return the row of a line that holds no object."""
    return RawRow(row=row, problem=f"line {line.number}: {line.problem}")
