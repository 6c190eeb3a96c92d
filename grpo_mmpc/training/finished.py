"""Completions that are finished, seen while the rest of their batch is still being generated."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Receive = Callable[[dict[int, list[int]]], None]
"""Takes completions that have just ended: row of the batch -> token ids, the end token included."""


@contextmanager
def finished_completions(model: torch.nn.Module, *, end_tokens: Iterable[int], receive: Receive) -> Iterator[None]:
    """Watch ``model.generate`` inside the block and hand over completions as they end.

    ``generate`` feeds every sampled token back to the model, one column of the batch a step. A row
    is handed over once one of the ``end_tokens`` has passed; those that end last, or are cut off,
    are not. The first call of the model holds the prompts and starts a new batch. Generation waits
    for ``receive``, which must return soon.
    """
    ends = set(end_tokens)
    columns: list[list[int]] = []
    ended: set[int] = set()

    def watch(module: torch.nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        ids = keywords.get("input_ids")
        if ids is None or ids.dim() != 2:
            return
        if ids.shape[1] != 1:
            columns.clear()
            ended.clear()
            return
        column = ids[:, 0].tolist()
        columns.append(column)
        fresh = [row for row, token in enumerate(column) if token in ends and row not in ended]
        if fresh:
            ended.update(fresh)
            receive({row: [earlier[row] for earlier in columns] for row in fresh})

    handle = model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
