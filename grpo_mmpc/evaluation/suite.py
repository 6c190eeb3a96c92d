"""The suite that an evaluation runs: tasks, items, metrics, sampling."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.evaluation.metric_tables import metrics_of
from grpo_mmpc.metrics.metric import Metric
from grpo_mmpc.metrics.official.text import ERROR_TEXT
from grpo_mmpc.tasks import SHIPPED, Task
from grpo_mmpc.tasks.prompt_rows import prompt_rows, select_balanced
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.content import content_identity
from grpo_mmpc.utils.hashing import json_digest, stable_order
from grpo_mmpc.utils.model_paths import resolve_model

VERSION = 4
"""Raised whenever the same completions would be scored differently."""

MALFORMED = {"corrected": None, "paper": ERROR_TEXT}
"""The stand-in for a completion that does not parse. The official script's word is rendered and
embedded like a title, and so gets a share of the score; use it for comparisons with that script
only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The tasks, items, metrics and sampling of an evaluation."""

    name: str = "cqbench"
    mode: str = "corrected"
    """``corrected`` or ``paper``."""
    rows: tuple[PromptRow, ...]
    """Held-out prompts of all tasks."""
    sampling: Mapping[str, SamplingConfig]
    """Greedy, by task."""
    known_tasks: Mapping[str, Task] = field(default_factory=lambda: SHIPPED)
    """By name, at least those of ``rows``."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """By item, the group of near-duplicates or variants that it is of; only groups of several."""
    settings: Mapping[str, Any]
    """Catalogue, encoders and renderer: part of the key."""
    chosen: tuple[str, ...] | None = None
    """Names of the metrics wanted; None means all of the mode. One that a task does not have is no
    mistake: tasks have metrics of their own."""

    @property
    def tasks(self) -> list[str]:
        """The tasks in the order of their first row."""
        return list(dict.fromkeys(row.task for row in self.rows))

    @property
    def num_products(self) -> int | None:
        """The number of groups of items that hang together; None where every item stands alone."""
        items = {row.item_id for row in self.rows}
        return len({self.groups.get(item_id, item_id) for item_id in items}) if self.groups else None

    @property
    def key(self) -> str:
        """The hash of all that scores depend on besides the policy: equal keys are comparable."""
        content = {
            "version": VERSION,
            "name": self.name,
            "mode": self.mode,
            "metrics": self.chosen,
            "prompts": [
                (row.prompt_id, row.reference, row.messages, *([row.more_references] if row.more_references else []))
                for row in self.rows
            ],
            "sampling": {task: repr(sampling) for task, sampling in self.sampling.items()},
            "settings": self.settings,
        }
        return json_digest(content)

    def rows_of(self, task: str) -> list[PromptRow]:
        """Return the prompts of one task."""
        return [row for row in self.rows if row.task == task]

    def metrics(self, task: str) -> dict[str, Metric]:
        """Return the metrics of one task, with the recall of each kind of attribute."""
        asked = self.known_tasks[task]
        kinds = list(asked.properties) or [kind for row in self.rows_of(task) for kind in row.attributes]
        return metrics_of(asked.kind, mode=self.mode, attribute_kinds=kinds, chosen=self.chosen)


def build_suite(config: RunConfig, data: RunData, *, will_run: bool = True) -> Suite:
    """Return the evaluation suite of a recipe: held-out products balanced over categories.

    Of a product with several variants or near-duplicates the one that a hash picks is evaluated,
    or each. A suite that ``will_run`` downloads its encoders, to know them by their content.
    """
    from grpo_mmpc.rendering.registry import renderer_identity

    settings = config.evaluation
    products = _products(data, salt=config.data.salt)
    chosen = select_balanced(
        data.catalogue,
        list(products),
        max_items=settings.max_items,
        max_per_category=settings.items_per_category,
        salt=config.data.salt,
    )
    if settings.all_variants:
        chosen = [variant for first in chosen for variant in products[first]]
    return Suite(
        mode=settings.mode,
        rows=tuple(prompt_rows(data.catalogue, chosen, config.evaluation_tasks, known=config.known_tasks)),
        known_tasks=config.known_tasks,
        groups=_groups(data, chosen),
        sampling={
            task: config.known_tasks[task].greedy(settings.max_tokens, structured=config.rollout.structured)
            for task in config.evaluation_tasks
        },
        settings={
            "catalogue": data.catalogue.fingerprint,
            "encoders": {
                name: scores_by(options, download=will_run) for name, options in settings.encoders.model_dump().items()
            },
            "renderer": settings.renderer and renderer_identity(settings.renderer, settings.renderer_kwargs),
            **({"structured": True} if config.rollout.structured else {}),
        },
        chosen=None if settings.metrics is None else tuple(settings.metrics),
    )


def _products(data: RunData, *, salt: str) -> dict[int, list[int]]:
    """Return the held-out items of each product, by the first of them in the order of the salt."""
    ids = data.catalogue.column("item_id", data.held_out)
    variants: dict[int, list[int]] = defaultdict(list)
    for position in stable_order(ids, salt=salt):
        index = data.held_out[position]
        variants[int(data.groups[index])].append(index)
    return {items[0]: items for items in variants.values()}


def _groups(data: RunData, chosen: Sequence[int]) -> dict[str, str]:
    ids = data.catalogue.column("item_id", chosen)
    members: dict[int, list[str]] = defaultdict(list)
    for index, item_id in zip(chosen, ids, strict=True):
        members[int(data.groups[index])].append(item_id)
    return {item_id: min(items) for items in members.values() if len(items) > 1 for item_id in items}


def scores_by(options: dict[str, Any] | None, *, download: bool = False) -> dict[str, Any] | None:
    """Return what an encoder's scores depend on: not the device, and the files of the model."""
    if options is None:
        return None
    relevant = {name: value for name, value in options.items() if name != "device"}
    for name in ("model", "weights"):
        if (
            relevant.get(name)
            and (content := content_identity(_place(str(relevant[name])), download=download)) is not None
        ):
            relevant[name] = content
    return relevant


def _place(model: str) -> str:
    try:
        return resolve_model(model)
    except ScoringError:  # loading says so, and leaves its metrics unscored
        return model
