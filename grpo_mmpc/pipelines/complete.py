"""Fill the missing titles and images of a catalogue: one catalogue folder in, another one out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from grpo_mmpc.catalogue import Catalogue, load_catalogue, write_quarantine
from grpo_mmpc.catalogue.tables import find_table
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.evaluation.completions import FILE, CompletionLog, complete
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.rendering.registry import load_renderer, renderer_identity
from grpo_mmpc.rendering.store import render_into
from grpo_mmpc.reports.catalogue.completion_page import write_completion_page
from grpo_mmpc.rewards.troubles import nano_troubles
from grpo_mmpc.rollout.offline import LateEngine
from grpo_mmpc.tasks import TASKS, Task
from grpo_mmpc.tasks.prompt_rows import filling_task, prompt_row
from grpo_mmpc.types import ProductRecord
from grpo_mmpc.utils.console import Progress, printer, quiet_when_redirected
from grpo_mmpc.utils.files import place_file, read_object, remove_partial, without_nan, write_json, write_json_lines
from grpo_mmpc.utils.locks import hold, in_use
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from grpo_mmpc.rendering.renderer import Renderer
    from grpo_mmpc.rollout.engine import Engine

CLAIM = "completion.json"
"""The file in ``out`` that names the catalogue that is completed there, and the policy."""
_LOCK = ".lock"
GENERATED = "images/generated"
"""Folder of rendered images, inside the completed catalogue."""
_PIECE = 5_000
"""Items whose prompts and images are held at once."""


def complete_catalogue(config: RunConfig, *, catalogue: Path, out: Path, checkpoint: Path | None) -> None:
    """Complete every item that lacks a title or an image, as the recipe says.

    The result holds every item that has a title or a good image; a column ``completed`` names the
    field that was filled, null elsewhere. What could not be filled stays missing and is listed in
    ``incomplete.jsonl`` with the reason, rows that are no items in ``quarantine.jsonl``. Killed and
    started again, it goes on with the items that are missing.

    Raises:
        CatalogueError: The catalogue cannot be read, or ``out`` is the catalogue itself, is in use,
            or holds something else, the completion of another catalogue or by another policy among
            them.
    """
    quiet_when_redirected()
    if out.resolve() == catalogue.resolve():
        raise CatalogueError(f"--out is the catalogue itself ({catalogue}); give another folder")
    with hold(out / _LOCK, refuse=in_use(out, CatalogueError)):
        _complete(config, catalogue=catalogue, out=out, checkpoint=checkpoint)


def _complete(config: RunConfig, *, catalogue: Path, out: Path, checkpoint: Path | None) -> None:
    say = printer(True)
    source = load_catalogue(catalogue, check_images=True, keep_titled=True)
    missing = Counter(task.name for record in _records(source) if (task := filling_task(record)) is not None)
    broken = f" ({len(source.broken_images)} of them a broken one)" if source.broken_images else ""
    say(
        f"{catalogue}: {source.rows_read} rows, {missing['image_to_text']} without title, "
        f"{missing['text_to_image']} without image{broken}; {len(source.quarantined)} set aside as no items"
    )
    model = {"model": config.model.name_or_path}
    troubles = list(nano_troubles(model, source.items[:20]["item_id"]).values()) if missing else []
    for sentence in troubles:
        say(f"! {sentence}")
    policy = policy_identity(config, adapter=checkpoint)
    _claim(out, catalogue=catalogue, policy=policy)
    remove_partial(out)
    write_quarantine(out / "quarantine.jsonl", source.quarantined)
    interactions = find_table(catalogue, "interactions")
    if interactions is not None:
        place_file(interactions, out / interactions.name)
    settings, renderer = config.evaluation, None
    if missing["text_to_image"] and settings.renderer is not None:
        renderer = load_renderer(settings.renderer, **settings.renderer_kwargs)
    elif missing["text_to_image"]:
        say(
            "no renderer: images stay missing; to fill them add evaluation.renderer=diffusers (or nano, "
            "module:factory) to --recipe"
        )
    with ExitStack() as stack:
        engine = LateEngine(config, checkpoint=checkpoint, stack=stack, say=say)
        filling = _Filling(
            config=config,
            source=source,
            out=out,
            engine=engine,
            renderer=renderer,
            policy=policy,
            progress=stack.enter_context(Progress()),
            log=CompletionLog(out / FILE),
        )
        filling.run()
    if missing and not engine.started and not filling.unfilled:
        say("all of them had been filled before: nothing was left to do")
    say(
        f"{len(source)} items, filled {filling.filled['title']} titles and {filling.filled['image']} images; "
        f"{len(filling.unfilled)} items could not be filled"
    )
    for reason, count in Counter(entry["reason"] for entry in filling.unfilled).most_common(5):
        say(f"  {count} x {reason}, see {out / 'incomplete.jsonl'}")
    if source.quarantined:
        say(f"  {len(source.quarantined)} rows are no items, see {out / 'quarantine.jsonl'}")
    page = write_completion_page(out, catalogue=catalogue, notes=troubles)
    say(f"completed catalogue: {out}\nexamples of what was filled: {page}\nnext: grpo-mmpc data validate {out}")


def _records(source: Catalogue) -> Iterator[ProductRecord]:
    """Read the items; a broken image is a missing one."""
    for record in source.records():
        yield replace(record, image=None) if record.item_id in source.broken_images else record


def _claim(out: Path, *, catalogue: Path, policy: str) -> None:
    """Mark the folder as this completion's own, unless it is another one's."""
    path, mine = out / CLAIM, {"catalogue": str(catalogue.resolve()), "policy": policy}
    if not path.is_file():
        if {file.name for file in out.iterdir()} - {_LOCK}:
            raise CatalogueError(f"{out} is not empty and holds no completion that could go on; give another folder")
        write_json(path, mine)
        return
    theirs = read_object(path)
    if theirs != mine:
        of = theirs.get("catalogue", "an unknown catalogue")
        what = "by another policy" if of == mine["catalogue"] else f"of {of}"
        raise CatalogueError(f"{out} holds the completion {what}; give another folder")


class _Gap(NamedTuple):
    """The missing field of an item: its new value, or the reason why it has none."""

    field: str
    value: str | None
    reason: str = ""
    detail: str = ""


@dataclass(kw_only=True)
class _Filling:
    config: RunConfig
    source: Catalogue
    out: Path
    engine: "Engine"
    renderer: "Renderer | None"
    policy: str
    progress: Progress
    log: CompletionLog
    filled: Counter[str] = field(default_factory=Counter)
    """Items by the field that was filled."""
    unfilled: list[dict[str, str]] = field(default_factory=list)
    """Items whose gap stays, each with reason and detail."""

    def run(self) -> None:
        """Write ``items.jsonl``, the images and ``incomplete.jsonl``."""
        write_json_lines(self.out / "items.jsonl", self._lines(), default=str)
        write_json_lines(self.out / "incomplete.jsonl", self.unfilled)

    def _lines(self) -> Iterator[dict[str, Any]]:
        rows, records = iter(self.source.items), _records(self.source)
        while piece := list(islice(records, _PIECE)):
            gaps = self._fill(piece)
            for row, record in zip(islice(rows, len(piece)), piece, strict=True):
                self._take_image(record)
                yield without_nan(self._line(dict(row), record, gaps.get(record.item_id)))

    def _line(self, row: dict[str, Any], record: ProductRecord, gap: _Gap | None) -> dict[str, Any]:
        line = row | {
            "image": record.image,
            "attributes": dict(record.attributes) or None,
            "completed": row.get("completed"),
        }
        if gap is not None and gap.value is not None:
            self.filled[gap.field] += 1
            return line | {gap.field: gap.value, "completed": gap.field}
        if gap is not None:
            details = (self.source.broken_images.get(record.item_id), gap.detail)
            entry = {"item_id": record.item_id, "reason": gap.reason, "detail": "; ".join(filter(None, details))}
            self.unfilled.append(entry)
        return line

    def _fill(self, records: Sequence[ProductRecord]) -> dict[str, _Gap]:
        gaps: dict[str, _Gap] = {}
        for task in TASKS.values():
            lacking = [record for record in records if filling_task(record) is task]
            if task.target_modality == "image" and self.renderer is None:
                no_renderer = _Gap("image", None, "no renderer", "set evaluation.renderer")
                gaps |= {record.item_id: no_renderer for record in lacking}
            elif lacking:
                answers = self._answers(task, lacking)
                prompts = {item_id: gap.value for item_id, gap in answers.items() if gap.value is not None}
                gaps |= answers
                if task.target_modality == "image" and prompts:
                    gaps |= self._render(prompts)
        return gaps

    def _answers(self, task: Task, records: Sequence[ProductRecord]) -> dict[str, _Gap]:
        completions = complete(
            [prompt_row(self.source, record, task) for record in records],
            task.greedy(self.config.evaluation.max_tokens),
            self.engine,
            log=self.log,
            policy=self.policy,
            progress=lambda done, total: self.progress(f"completing {task.name}", done, total),
        )
        gaps = {}
        for record, completion in zip(records, completions, strict=True):
            if isinstance(completion, Failure):
                gaps[record.item_id] = _Gap(task.target_modality, None, "not completed", completion.reason)
                continue
            prediction = task.parse(completion).prediction
            gaps[record.item_id] = (
                _Gap(task.target_modality, None, "malformed completion", completion)
                if prediction is None
                else _Gap(task.target_modality, prediction)
            )
        return gaps

    def _render(self, prompts: Mapping[str, str]) -> dict[str, _Gap]:
        settings = self.config.evaluation
        assert self.renderer is not None and settings.renderer is not None
        result = render_into(
            self.out / GENERATED,
            self.renderer,
            prompts,
            identity=renderer_identity(settings.renderer, settings.renderer_kwargs),
            progress=lambda done, total: self.progress("rendering", done, total),
        )
        return {
            item_id: _Gap("image", None, "failed render", result.records[item_id].reason or "")
            if path is None
            else _Gap("image", f"{GENERATED}/{path.name}")
            for item_id, path in result.paths.items()
        }

    def _take_image(self, record: ProductRecord) -> None:
        """Put the item's own image under its own path."""
        path = self.source.image_path(record)
        if path is not None and record.image is not None:
            place_file(path, self.out / record.image)
