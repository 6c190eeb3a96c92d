"""The file of a policy's completions, which later policies are measured beside."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from grpo_mmpc.recbench.records import Modality
from grpo_mmpc.utils.files import read_json_lines, write_json_lines

ANSWERS = "answers.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A policy's completion of an item: a value, or the reason why there is none."""

    item_id: str
    modality: Modality
    value: str | None
    """Title, or image file."""
    reason: str | None


def write_answers(path: Path, answers: Sequence[Answer], *, key: str) -> None:
    """Write answers, image files relative to the folder: it may be read from elsewhere later."""
    rows: list[dict[str, Any]] = [{"key": key}]
    for one in answers:
        is_file = one.value is not None and one.modality == "image"
        rows.append(asdict(one) | ({"value": os.path.relpath(str(one.value), path.parent)} if is_file else {}))
    write_json_lines(path, rows)


def key_of(path: Path) -> str | None:
    """Return the settings' key that a file of answers was written under; None where it has none."""
    try:
        with path.open(encoding="utf-8") as file:
            key = json.loads(file.readline()).get("key")
    except (OSError, ValueError):
        return None
    return key if isinstance(key, str) else None


def read_answers(path: Path) -> list[Answer]:
    """Read answers back, image files as paths from here."""
    answers = [Answer(**row) for row in read_json_lines(path)[1:]]
    return [
        replace(one, value=str(path.parent / one.value)) if one.modality == "image" and one.value else one
        for one in answers
    ]
