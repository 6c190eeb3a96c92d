"""Completions, written down as they come: after a kill, only missing ones are generated."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.distributed import ONE, Ranks
from grpo_mmpc.utils.files import append_json_lines, read_json_lines
from grpo_mmpc.utils.hashing import hex_digest
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from grpo_mmpc.rollout.engine import Engine

COMPLETIONS_FILE = "completions.jsonl"


class CompletionLog:
    """A file of completions that only grows, one JSON object a line, looked up by key.

    The key covers all that a completion depends on, so that a changed prompt, image, limit or
    policy is completed again and everything else is kept. A line that a kill cut in half is
    skipped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._completions: dict[str, str] = {}
        for row in read_json_lines(path, skip_broken=True) if path.is_file() else []:
            key, completion = row.get("key"), row.get("completion")
            if isinstance(key, str) and isinstance(completion, str):
                self._completions[key] = completion

    def get(self, key: str) -> str | None:
        """Return the completion of a key, None if it is not there."""
        return self._completions.get(key)

    def add(self, rows: Sequence[PromptRow], keys: Sequence[str], completions: Sequence[str]) -> None:
        """Append completions; they have left this process when this returns."""
        append_json_lines(
            self._path,
            [
                {"prompt_id": row.prompt_id, "key": key, "completion": completion}
                for row, key, completion in zip(rows, keys, completions, strict=True)
            ],
        )
        self._completions.update(zip(keys, completions, strict=True))


def complete(
    rows: Sequence[PromptRow],
    sampling: SamplingConfig,
    engine: "Engine",
    *,
    log: CompletionLog | None,
    policy: str,
    ranks: Ranks = ONE,
    progress: Callable[[int, int], None] | None = None,
) -> list[str | Failure]:
    """Return completions of all rows: from the log where it has them, else from the engine.

    A collective on several ranks: each passes the same rows, the main process alone the ``log`` and
    a ``progress`` of (rows done, rows in total). The others get an empty list.
    """
    keys: list[str] = []
    known: dict[int, str | Failure] = {}

    def look_up() -> list[int]:
        assert log is not None
        keys.extend(completion_key(row, sampling, policy=policy) for row in rows)
        known.update((i, text) for i, key in enumerate(keys) if (text := log.get(key)) is not None)
        return [i for i in range(len(rows)) if i not in known]

    def keep(piece: list[int], completions: Sequence[str | Failure]) -> None:
        assert log is not None
        texts = {i: text for i, text in zip(piece, completions, strict=True) if isinstance(text, str)}
        log.add([rows[i] for i in texts], [keys[i] for i in texts], list(texts.values()))
        known.update(zip(piece, completions, strict=True))

    def show() -> None:
        if progress is not None:
            progress(len(known), len(rows))

    missing = ranks.on_main(look_up)
    for start in range(0, len(missing), engine.rows_at_once if missing else 1):
        show()  # an engine that loads at its first use has loaded, and nothing may come for long
        piece = missing[start : start + engine.rows_at_once]
        completions = engine.generate([rows[i] for i in piece], sampling)
        ranks.on_main(partial(keep, piece, completions))
    if missing:
        show()
    return [known[i] for i in range(len(rows))] if log is not None else []


def completion_key(row: PromptRow, sampling: SamplingConfig, *, policy: str) -> str:
    """Return the hash of all that a completion depends on: prompt, image, sampling, policy."""
    content = json.dumps([row.prompt_id, row.messages, repr(sampling), policy])
    images = [Path(path).read_bytes() for path in row.shown_images] or [b""]
    return hex_digest(content, *images, size=12)
