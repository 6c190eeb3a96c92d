"""The plan of a completion: what is missing, dealt over parts by the items' identifiers.

An item stays in its part whatever comes and goes beside it. Twice as many gaps make twice as many
parts, each of which takes over what its half of the former one holds.
"""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.catalogue.siblings import Beside, Siblings
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.models.identity import adapter_identity, policy_identity
from grpo_mmpc.rendering.registry import renderer_identity
from grpo_mmpc.tasks import TASKS, Task
from grpo_mmpc.tasks.prompt_rows import filling_task
from grpo_mmpc.types import ProductRecord
from grpo_mmpc.utils.files import check_inside, names_in, read_object, to_json, write_json
from grpo_mmpc.utils.hashing import json_digest, number

CLAIM = "completion.json"
"""The file in the output folder that holds the plan, and by it says whose completion it is."""
LOCK = ".lock"
PARTS = "parts"
"""The folder of gaps and answers, one folder a part."""
_GAPS = "gaps.jsonl"
_PART_SIZE = 256
"""Gaps of a part at most, on average; at least half as many once there are two parts."""
_HELD = 5_000
"""Gaps that are held before they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """All that an answer of the policy depends on beside the item."""

    policy: str
    """``policy_identity``."""
    model: str
    adapter: str | None
    """``adapter_identity``; None is the base model."""
    renderer: str | None
    """``renderer_identity``; None leaves images missing."""
    prompts: Mapping[str, str]
    """``Task.version`` by task."""
    shown: Mapping[str, Sequence[str]]
    """The fields that prompts show, by task."""
    sampling: Mapping[str, Mapping[str, Any]]
    """Fields of ``SamplingConfig`` by task."""
    samples: int
    """Texts sampled at temperature 1 beside the greedy one, by whose agreement it is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Provenance):
    """All that the parts of a completion have in common; processes with equal plans share them."""

    catalogue: str
    """Absolute path of the catalogue that is completed."""
    fingerprint: str
    """``Catalogue.fingerprint``: of items and images."""
    siblings: bool
    """Whether a title that the catalogue itself gives is taken before the policy is asked."""
    gaps: int
    parts: int

    def part_of(self, item_id: str) -> int:
        """Return the part that an item belongs to, in [0, ``parts``)."""
        return number(item_id) % self.parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One missing field of an item that has what its task shows."""

    record: ProductRecord
    """Without further texts, and without a description that no prompt shows."""
    task: str
    stamp: tuple[int, int] | None
    """Size and modification time of the image that is shown: changed, its content is looked at."""
    conditions: str
    """The hash of policy, prompt, sampling, and samples of a text or renderer of an image."""
    beside: Beside | None = None
    """What fills it without the policy."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Gap":
        """Return the gap of a line of a part's file, which ``claim`` wrote."""
        beside = content["beside"]
        record = ProductRecord(**content["record"])
        return cls(**{**content, "record": record, "beside": None if beside is None else Beside(**beside)})


def part_name(number: int, count: int) -> str:
    """Return the name of a part's files and folders."""
    return f"{number:04d}-of-{count:04d}"


def gaps_file(out: Path, name: str) -> Path:
    """Return the file of a part's gaps."""
    return out / PARTS / name / _GAPS


def records_of(source: Catalogue) -> Iterator[ProductRecord]:
    """Read the items of a catalogue; a broken image is a missing one."""
    for record in source.records():
        yield replace(record, image=None) if record.item_id in source.broken_images else record


def completing_tasks(config: RunConfig) -> dict[str, Task]:
    """Return the tasks that fill gaps, by name: those of the recipe if any is none of the paper's.

    A policy for one or both of these two is asked for titles and images, whichever is missing.
    """
    return TASKS if set(config.tasks) <= set(TASKS) else {name: config.known_tasks[name] for name in config.tasks}


def provenance_of(config: RunConfig, *, checkpoint: Path | None, samples: int) -> Provenance:
    """Return what answers depend on that a recipe and a checkpoint give."""
    settings, tasks = config.evaluation, completing_tasks(config)
    return Provenance(
        policy=policy_identity(config, adapter=checkpoint),
        model=config.model.name_or_path,
        adapter=None if checkpoint is None else adapter_identity(checkpoint),
        renderer=None if settings.renderer is None else renderer_identity(settings.renderer, settings.renderer_kwargs),
        prompts={name: task.version for name, task in tasks.items()},
        shown={name: task.source for name, task in tasks.items()},
        sampling={
            name: asdict(task.greedy(settings.max_tokens, structured=config.rollout.structured))
            for name, task in tasks.items()
        },
        samples=samples,
    )


def make_plan(
    config: RunConfig, source: Catalogue, *, checkpoint: Path | None, siblings: bool, samples: int
) -> tuple[Plan, Counter[str]]:
    """Return the plan of a catalogue's completion, and its gaps by task."""
    tasks = completing_tasks(config)
    missing = Counter(task.name for _, _, task in _gaps(source, tasks))
    parts = 1
    while missing.total() > parts * _PART_SIZE:
        parts *= 2
    plan = Plan(
        **asdict(provenance_of(config, checkpoint=checkpoint, samples=samples)),
        catalogue=str(source.folder.resolve()),
        fingerprint=source.fingerprint,
        siblings=siblings,
        gaps=missing.total(),
        parts=parts,
    )
    return plan, missing


def claim(out: Path, plan: Plan, source: Catalogue, *, tasks: Mapping[str, Task], overwrite: bool) -> None:
    """Mark the folder as this plan's and write the gaps of its parts, unless both are there.

    Args:
        out: The output folder, whose lock is held.
        plan: The plan.
        source: The catalogue that it was made of.
        tasks: See ``completing_tasks``.
        overwrite: Take over the completion by another policy; all items are asked again then.

    Raises:
        CatalogueError: The folder holds something else.
    """
    check_inside(out / PARTS, folder=out)
    path, theirs = out / CLAIM, read_object(out / CLAIM)
    if not path.is_file() and names_in(out) - {LOCK}:
        raise CatalogueError(f"{out} is not empty and holds no completion that could go on; give another folder")
    of = theirs.get("catalogue", "an unknown catalogue")
    if path.is_file() and of != plan.catalogue:
        raise CatalogueError(f"{out} holds the completion of {of}; give another folder")
    if path.is_file() and theirs.get("policy") != plan.policy and not overwrite:
        raise CatalogueError(
            f"{out} holds the completion by another policy; give another folder, or --overwrite to ask this one for "
            "everything again"
        )
    if is_claimed(out, plan):
        return
    # Killed from here on, the folder is this completion's and has no plan.
    write_json(path, {"catalogue": plan.catalogue, "policy": plan.policy})
    _write_gaps(out, plan, source, tasks)
    write_json(path, asdict(plan))


def is_claimed(out: Path, plan: Plan) -> bool:
    """Return whether the folder holds the completion of that very plan."""
    mine, theirs = json.loads(json.dumps(asdict(plan))), read_object(out / CLAIM)
    return all(key in theirs and theirs[key] == value for key, value in mine.items())


def _write_gaps(out: Path, plan: Plan, source: Catalogue, tasks: Mapping[str, Task]) -> None:
    temporary = out / ".plan.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    names = [part_name(number, plan.parts) for number in range(plan.parts)]
    held: defaultdict[str, list[str]] = defaultdict(list)

    def write() -> None:
        for name, lines in held.items():
            with (temporary / name).open("a", encoding="utf-8") as file:
                file.writelines(lines)
        held.clear()

    for name in names:
        (temporary / name).touch()
    conditions = {name: _conditions(plan, task) for name, task in tasks.items()}
    unseen: dict[str, Any] = {"titles": (), "descriptions": ()}
    if not any("description" in task.source for task in tasks.values()):
        unseen["description"] = None
    siblings = Siblings(source) if plan.siblings else None
    for waiting, (position, record, task) in enumerate(_gaps(source, tasks), start=1):
        image = source.image_path(record)
        status = None if image is None else image.stat()
        gap = Gap(
            record=replace(record, **unseen),
            task=task.name,
            stamp=None if status is None else (status.st_size, status.st_mtime_ns),
            conditions=conditions[task.name],
            beside=siblings.title(position, record) if siblings and task.target == "title" else None,
        )
        held[names[plan.part_of(record.item_id)]].append(f"{to_json(asdict(gap))}\n")
        if waiting % _HELD == 0:
            write()
    write()
    for name in names:
        gaps_file(out, name).parent.mkdir(parents=True, exist_ok=True)
        (temporary / name).replace(gaps_file(out, name))
    temporary.rmdir()


def _gaps(source: Catalogue, tasks: Mapping[str, Task]) -> Iterator[tuple[int, ProductRecord, Task]]:
    for position, record in enumerate(records_of(source)):
        if (task := filling_task(record, tasks.values())) is not None:
            yield position, record, task


def _conditions(plan: Plan, task: Task) -> str:
    renderer = plan.renderer if task.target == "image" else None
    samples = plan.samples if task.target != "image" else None
    name = task.name
    return json_digest([plan.policy, plan.prompts[name], plan.shown[name], plan.sampling[name], renderer, samples])
