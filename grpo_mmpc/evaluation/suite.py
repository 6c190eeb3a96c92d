"""What an evaluation runs: tasks, items, metrics, sampling. The key of a suite says when two results are comparable."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.metrics.table import METRICS, Metric, attribute_recall_metrics
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.types import PromptRow, SamplingConfig

VERSION = 1
"""Raised whenever the same completions would be scored differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Content quality of completions on held-out items."""

    name: str
    rows: tuple[PromptRow, ...]
    """Prompts of all tasks."""
    sampling: Mapping[str, SamplingConfig]
    """Greedy, by task."""
    settings: Mapping[str, Any]
    """Encoders and renderer, as configured: part of the key."""

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order of their first row."""
        return list(dict.fromkeys(row.task for row in self.rows))

    @property
    def key(self) -> str:
        """Hash over everything that the scores depend on besides the policy."""
        content = {
            "version": VERSION,
            "name": self.name,
            "prompts": [(row.prompt_id, row.reference, row.messages) for row in self.rows],
            "sampling": {task: repr(sampling) for task, sampling in self.sampling.items()},
            "settings": self.settings,
        }
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()

    def metrics(self, task: str) -> dict[str, Metric]:
        """Metrics of one task; attribute recall for the kinds that its items know, most frequent kind first."""
        chosen = {name: metric for name, metric in METRICS.items() if task in metric.tasks}
        if "attribute_recall" in chosen:
            chosen |= attribute_recall_metrics(attribute_kinds(row for row in self.rows if row.task == task))
        return chosen


def attribute_kinds(rows: Iterable[PromptRow]) -> list[str]:
    """Attribute kinds that occur in the rows, in order of first appearance."""
    return list(dict.fromkeys(kind for row in rows for kind in row.attributes))


def cqbench(rows: Sequence[PromptRow], *, max_tokens: Mapping[str, int], settings: Mapping[str, Any]) -> Suite:
    """The content quality suite: greedy decoding, every metric of the table.

    Args:
        rows: Held-out prompts.
        max_tokens: New tokens by task; the task's own limit where absent.
        settings: Encoders and renderer, as configured.
    """
    tasks = dict.fromkeys(row.task for row in rows)
    sampling = {
        task: SamplingConfig(max_tokens=max_tokens.get(task, TASKS[task].max_completion_tokens), temperature=0.0)
        for task in tasks
    }
    return Suite(name="cqbench", rows=tuple(rows), sampling=sampling, settings=dict(settings))
