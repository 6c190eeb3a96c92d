"""Write and read the rows that were set aside, each with its reason."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from grpo_mmpc.types import Quarantined
from grpo_mmpc.utils.files import replace_atomically


def write_quarantine(path: Path | str, rows: Iterable[Quarantined]) -> Path:
    """Write the rows as JSON lines with the keys file, row, item_id, reason; return the path.

    An empty file is written for no rows: it says that the check was made.
    """
    target = Path(path)
    with replace_atomically(target) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
    return target


def read_quarantine(path: Path | str) -> list[Quarantined]:
    """Read a file that :func:`write_quarantine` wrote."""
    with Path(path).open(encoding="utf-8") as lines:
        return [Quarantined(**json.loads(line)) for line in lines]
