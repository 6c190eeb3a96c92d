"""Write and read the rows that were set aside, each with its reason."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.files import read_json_lines, write_json_lines


def write_quarantine(path: Path, rows: Iterable[Quarantined]) -> None:
    """Write the rows as JSON lines with the keys file, row, item_id, reason.

    An empty file is written for no rows: it says that the check was made.
    """
    write_json_lines(path, map(asdict, rows))


def read_quarantine(path: Path) -> list[Quarantined]:
    """Read a file that :func:`write_quarantine` wrote."""
    return [Quarantined(**row) for row in read_json_lines(path)]
