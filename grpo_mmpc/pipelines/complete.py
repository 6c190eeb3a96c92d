"""Fill the missing titles and images of a whole catalogue: a catalogue folder in, a catalogue folder out."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue import Catalogue, load_catalogue, write_quarantine
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.evaluation.completions import FILE, CompletionLog, complete
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.rendering.store import RenderJob, render_into, render_seed
from grpo_mmpc.rollout.offline import offline_engine
from grpo_mmpc.tasks import TASKS, Task
from grpo_mmpc.types import ProductRecord, PromptRow, SamplingConfig
from grpo_mmpc.utils.console import Progress, printer, quiet_when_redirected
from grpo_mmpc.utils.files import without_nan

if TYPE_CHECKING:
    from grpo_mmpc.rendering import Renderer
    from grpo_mmpc.rollout import Engine

CLAIM = "completion.json"
"""Says in ``out`` which catalogue is completed there, and by which policy."""
GENERATED = "images/generated"
"""Folder of rendered images, inside the completed catalogue."""
_PIECE = 5_000
"""Items whose prompts and pictures are held at once; of all others only the completion's text
is."""


def complete_catalogue(config: RunConfig, *, catalogue: Path, out: Path, checkpoint: Path | None) -> int:
    """Complete every item that lacks a title or an image, with the recipe's policy, engine and renderer.

    The result holds all usable items; a column ``completed`` names the field that was filled, null
    elsewhere. What could not be filled stays missing and is listed in ``incomplete.jsonl`` with the
    reason. Killed and started again, it goes on with the items that are missing.

    Args:
        config: The recipe.
        catalogue: Catalogue folder.
        out: Folder of the completed catalogue.
        checkpoint: Folder of the adapter; None completes with the base model.

    Returns:
        Exit status: 0, also where some items could not be filled.

    Raises:
        CatalogueError: The catalogue cannot be read, or ``out`` is the catalogue itself or holds
            something else, the completion of another catalogue or by another policy among them.
    """
    say = printer(True)
    quiet_when_redirected()
    if out.resolve() == catalogue.resolve():
        raise CatalogueError(f"--out is the catalogue itself ({catalogue}); give another folder")
    if out.is_dir() and any(out.iterdir()) and not (out / CLAIM).is_file():
        raise CatalogueError(f"{out} is not empty and holds no completion that could go on; give another folder")
    source = load_catalogue(catalogue, check_images=True)
    missing = Counter(task.name for record in source.records() if (task := task_of(record)) is not None)
    say(
        f"{catalogue}: {len(source)} items, {missing['image_to_text']} without title, "
        f"{missing['text_to_image']} without image; {len(source.quarantined)} broken rows set aside"
    )
    _claim(out, catalogue=catalogue, policy=policy_identity(config, adapter=checkpoint))
    filling = _Filling(config, source, out, checkpoint=checkpoint, draws=missing["text_to_image"] > 0)
    if source.quarantined:
        write_quarantine(out / "quarantine.jsonl", source.quarantined)
    if missing["text_to_image"] and config.evaluation.renderer is None:
        say(
            "no renderer: images stay missing; to fill them add evaluation.renderer=diffusers (or nano, module:factory) to "
            "--recipe"
        )
    if missing:
        say(f"loading {config.model.name_or_path}{'' if checkpoint is None else f' with adapter {checkpoint}'} ...")
    with offline_engine(config, checkpoint=checkpoint) if missing else nullcontext() as engine:
        filling.run(engine)
    for interactions in catalogue.glob("interactions.*"):
        shutil.copyfile(interactions, out / interactions.name)
    say(
        f"filled {filling.filled['title']} titles and {filling.filled['image']} images; "
        f"{filling.unfilled.total()} items could not be filled"
    )
    for reason, count in filling.unfilled.most_common(5):
        say(f"  {count} x {reason}, see {out / 'incomplete.jsonl'}")
    say(f"completed catalogue: {out}\nnext: grpo-mmpc data validate {out}")
    return 0


def _claim(out: Path, *, catalogue: Path, policy: str) -> None:
    """Make the folder this completion's own, or find that it is."""
    path, mine = out / CLAIM, {"catalogue": str(catalogue.resolve()), "policy": policy}
    if path.is_file():
        theirs = json.loads(path.read_text("utf-8"))
        if theirs != mine:
            what = (
                "by another policy" if theirs.get("catalogue") == mine["catalogue"] else f"of {theirs.get('catalogue')}"
            )
            raise CatalogueError(f"{out} holds the completion {what}; give another folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")


def task_of(record: ProductRecord) -> Task | None:
    """The task that fills what an item lacks; None where nothing is missing."""
    if record.title is None and record.image is not None:
        return TASKS["image_to_text"]
    if record.image is None and record.title is not None:
        return TASKS["text_to_image"]
    return None


class _Filling:
    """One pass over a catalogue."""

    def __init__(
        self, config: RunConfig, source: Catalogue, out: Path, *, checkpoint: Path | None, draws: bool
    ) -> None:
        self.filled: Counter[str] = Counter()
        """Items by the field that was filled."""
        self.unfilled: Counter[str] = Counter()
        """Items by the reason why nothing was."""
        self._config = config
        self._source = source
        self._out = out
        self._renderer: Renderer | None = None
        self._renderer_identity = ""
        if draws and config.evaluation.renderer is not None:
            self._renderer, self._renderer_identity = _renderer(config, config.evaluation.renderer)
        self._policy = policy_identity(config, adapter=checkpoint)
        self._log = CompletionLog(out / FILE)
        self._show = Progress()

    def run(self, engine: "Engine | None") -> None:
        """Write ``items.jsonl``, the images and ``incomplete.jsonl``; without an engine nothing is missing."""
        partial, incomplete = self._out / "items.jsonl.part", self._out / "incomplete.jsonl"
        with partial.open("w", encoding="utf-8") as items, incomplete.open("w", encoding="utf-8") as left:
            for rows, records in self._pieces():
                values, reasons = self._fill(records, engine) if engine is not None else ({}, {})
                for row, record in zip(rows, records, strict=True):
                    self._take_image(record)
                    field, value = values.get(record.item_id, (None, None))
                    completed = field or row.get("completed")  # of an earlier completion, too
                    line = row | {"attributes": dict(record.attributes) or None, "completed": completed}
                    if field is not None:
                        line[field] = value
                        self.filled[field] += 1
                    items.write(json.dumps(without_nan(line), ensure_ascii=False, default=str) + "\n")
                for item_id, (reason, detail) in reasons.items():
                    self.unfilled[reason] += 1
                    entry = {"item_id": item_id, "reason": reason, "detail": detail}
                    left.write(json.dumps(entry, ensure_ascii=False) + "\n")
        partial.replace(self._out / "items.jsonl")

    def _pieces(self) -> Iterator[tuple[list[dict[str, Any]], list[ProductRecord]]]:
        """Raw rows and records, in pieces."""
        rows, records = iter(self._source.items), self._source.records()
        while piece := list(islice(records, _PIECE)):
            yield [dict(row) for row in islice(rows, len(piece))], piece

    def _fill(
        self, records: Sequence[ProductRecord], engine: "Engine"
    ) -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
        """By item: (field, value) where something was filled, (reason, detail) where nothing could be."""
        values: dict[str, tuple[str, str]] = {}
        reasons: dict[str, tuple[str, str]] = {}
        for task in TASKS.values():
            lacking = [record for record in records if task_of(record) is task]
            if task.target_modality == "image" and self._renderer is None:
                reasons |= {r.item_id: ("no renderer", "set evaluation.renderer") for r in lacking}
                continue
            answers, malformed = self._answers(task, lacking, engine)
            reasons |= malformed
            if task.target_modality == "title":
                values |= {item_id: ("title", text) for item_id, text in answers.items()}
            elif answers:
                pictures, failed = self._draw(answers)
                values |= pictures
                reasons |= failed
        return values, reasons

    def _answers(
        self, task: Task, records: Sequence[ProductRecord], engine: "Engine"
    ) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
        prompts = [self._prompt(record, task) for record in records]
        limits = {str(name): limit for name, limit in self._config.evaluation.max_tokens.items()}
        completions = complete(
            prompts,
            SamplingConfig(max_tokens=limits.get(task.name, task.max_completion_tokens), temperature=0.0),
            engine,
            log=self._log,
            policy=self._policy,
            progress=lambda done, total: self._show(f"completing {task.name}", done, total),
        )
        answers, malformed = {}, {}
        for prompt, completion in zip(prompts, completions, strict=True):
            prediction = task.parse(completion).prediction
            if prediction is None:
                malformed[prompt.item_id] = ("malformed completion", completion)
            else:
                answers[prompt.item_id] = prediction
        return answers, malformed

    def _draw(self, prompts: dict[str, str]) -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
        assert self._renderer is not None
        result = render_into(
            self._out / GENERATED,
            self._renderer,
            [RenderJob(item_id=i, prompt=prompt, seed=render_seed(i)) for i, prompt in prompts.items()],
            identity=self._renderer_identity,
            progress=lambda done, total: self._show("rendering", done, total),
        )
        drawn = {i: ("image", f"{GENERATED}/{path.name}") for i, path in result.paths.items() if path is not None}
        failed = {
            i: ("failed render", result.records[i].reason or "") for i, path in result.paths.items() if path is None
        }
        return drawn, failed

    def _prompt(self, record: ProductRecord, task: Task) -> PromptRow:
        shows_image = task.source_modality == "image"
        path = self._source.image_path(record)
        return PromptRow(
            prompt_id=f"{task.name}:{record.item_id}",
            item_id=record.item_id,
            category=record.category,
            task=task.name,
            messages=task.messages(title=None if shows_image else record.title),
            prompt_image_path=str(path) if shows_image else None,
            image_path=None if path is None else str(path),
            reference=None,
            title=record.title or "",
            attributes=record.attributes,
        )

    def _take_image(self, record: ProductRecord) -> None:
        """The item's own image under its own path: linked where the disk allows it, else copied."""
        path = self._source.image_path(record)
        if path is None or record.image is None or (self._out / record.image).exists():
            return
        target = self._out / record.image
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:  # another disk, or one without links
            shutil.copyfile(path, target)


def _renderer(config: RunConfig, reference: str) -> "tuple[Renderer, str]":
    from grpo_mmpc.rendering.registry import load_renderer, renderer_identity

    kwargs = config.evaluation.renderer_kwargs
    return load_renderer(reference, **kwargs), renderer_identity(reference, kwargs)
