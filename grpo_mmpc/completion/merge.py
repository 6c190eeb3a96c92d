"""The merge of all parts into one catalogue folder, in the order of the catalogue."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from grpo_mmpc.catalogue import Catalogue, write_quarantine
from grpo_mmpc.catalogue.images import place_images
from grpo_mmpc.catalogue.sources.importing import import_record
from grpo_mmpc.catalogue.tables import find_table
from grpo_mmpc.completion.calibration import Calibration
from grpo_mmpc.completion.judging import Gate, proposal_of
from grpo_mmpc.completion.part import GENERATED, Answer, parts_of
from grpo_mmpc.completion.plan import CLAIM, PARTS, Plan, is_claimed, records_of
from grpo_mmpc.completion.proposal import PROPOSALS_FILE, fill, mark
from grpo_mmpc.completion.tally import INCOMPLETE, Tally
from grpo_mmpc.config.sections import GateSection
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.rendering.store import RECORDS_NAME
from grpo_mmpc.tasks import Task
from grpo_mmpc.tasks.prompt_rows import filling_task
from grpo_mmpc.types import ProductRecord
from grpo_mmpc.utils.files import (
    place_file,
    read_object,
    remove_partial,
    replace_atomically,
    to_json,
    without_nan,
    write_json,
)
from grpo_mmpc.utils.hashing import digest_of

_MERGED = "merged"
"""The key of the claim that holds ``_answers_digest`` of what was merged."""


def all_there(out: Path, plan: Plan) -> bool:
    """Return whether every part of a plan holds its answers."""
    return is_claimed(out, plan) and all(part.is_there() for part in parts_of(out, plan.parts))


def is_merged(out: Path, plan: Plan) -> bool:
    """Return whether these very answers were merged before."""
    return read_object(out / CLAIM).get(_MERGED) == _answers_digest(out, plan)


def merge(
    out: Path,
    plan: Plan,
    source: Catalogue,
    settings: GateSection,
    *,
    tasks: Mapping[str, Task],
    calibration: Calibration | None = None,
) -> Tally:
    """Write the completed catalogue from all parts, item by item; the lock of ``out`` is held.

    Every item is in ``items.jsonl``, every gap in ``proposals.jsonl``, those that could not be
    filled in ``incomplete.jsonl``, rows that are no items in ``quarantine.jsonl``. ``settings`` are
    those of the gate, ``tasks`` those of the plan; a ``calibration`` turns agreement into its
    confidence.

    Raises:
        CatalogueError: A part does not answer this plan: another process has changed it.
    """
    tally = Tally(asked={task.target for task in tasks.values()})
    gate = Gate(settings, source.records(), calibration)
    # Those of parts belong to who works on them.
    remove_partial(out, besides=(out / PARTS, out / GENERATED))
    write_quarantine(out / "quarantine.jsonl", source.quarantined)
    for beside in (find_table(Path(plan.catalogue), "interactions"), import_record(Path(plan.catalogue))):
        if beside is not None:
            place_file(beside, out / beside.name)
    with replacing(out) as (items, proposals, incomplete):
        for row, record, task, answer in _answered(out, plan, source, tasks):
            if record.image is not None:
                place_images(record.image, record.images, folder=source.folder, into=out)
            item = _item(row, record, answer)
            tally.changed += _changes(item, record)
            _write(items, without_nan(item))
            if task is None or answer is None:
                continue
            proposal = gate.judge(proposal_of(plan, task, answer, is_asked=bool(answer.key)), record, answer)
            _write(proposals, proposal.to_json())
            if answer.value is not None:
                gate.remember(proposal)
                tally.filled[answer.field] += 1
                tally.sources[proposal.source] += 1
                tally.review += proposal.status == "review"
                tally.reasons.update({reason.split(":")[0] for reason in proposal.reasons})
            else:
                tally.unfilled[answer.reason] += 1
                details = (source.broken_images.get(record.item_id), answer.detail)
                detail = "; ".join(filter(None, details))
                _write(incomplete, {"item_id": record.item_id, "reason": answer.reason, "detail": detail})
    assert tally.changed == 0, f"{tally.changed} existing values would be overwritten"
    _drop_unused(out, plan)
    return tally


@contextmanager
def replacing(out: Path) -> Iterator[tuple[TextIO, ...]]:
    """Open the items, the proposals and the list of what is missing still, to write them anew."""
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(stack.enter_context(replace_atomically(out / name)).open("w", encoding="utf-8"))
            for name in ("items.jsonl", PROPOSALS_FILE, INCOMPLETE)
        )


def mark_merged(out: Path, plan: Plan) -> None:
    """Write into the claim that these very answers are merged, and all that is made of them."""
    write_json(out / CLAIM, asdict(plan) | {_MERGED: _answers_digest(out, plan)})


def _write(file: TextIO, content: Mapping[str, Any]) -> None:
    file.write(f"{to_json(content, default=str)}\n")


def _answered(
    out: Path, plan: Plan, source: Catalogue, tasks: Mapping[str, Task]
) -> Iterator[tuple[dict[str, Any], ProductRecord, Task | None, Answer | None]]:
    """Yield each item with the task that fills its gap and the answer, where it has one."""
    answers = [part.answers() for part in parts_of(out, plan.parts)]
    for row, record in zip(source.items, records_of(source), strict=True):
        task = filling_task(record, tasks.values())
        answer = None if task is None else next(answers[plan.part_of(record.item_id)], None)
        if task is not None and (answer is None or answer.item_id != record.item_id):
            raise CatalogueError(f"{out}: another process has changed the parts of item {record.item_id}; start again")
        yield dict(row), record, task, answer


def _item(row: Mapping[str, Any], record: ProductRecord, answer: Answer | None) -> dict[str, Any]:
    item = {
        **row,
        "image": record.image,
        "attributes": dict(record.attributes) or None,
        "completed": row.get("completed"),
    }
    if answer is not None and answer.value is not None:
        fill(item, answer.field, answer.value)
        mark(item, answer.field, is_filled=True)
    return item


def _changes(item: Mapping[str, Any], record: ProductRecord) -> bool:
    """Return whether a value that the catalogue has is another one in the item."""
    known = {name: getattr(record, name) for name in ("title", "image", "description")}
    kept = item["attributes"] or {}
    return any(old is not None and item[name] != old for name, old in known.items()) or any(
        kept.get(key) != old for key, old in record.attributes.items()
    )


def _answers_digest(out: Path, plan: Plan) -> str:
    lines = (to_json(asdict(line)) for part in parts_of(out, plan.parts) for line in part.answers())
    return digest_of(lines).hex()


def _drop_unused(out: Path, plan: Plan) -> None:
    """Remove images that no answer names, parts of former plans, and what workers need at work."""
    parts = parts_of(out, plan.parts)
    for part in parts:
        part.check()
    names = {part.name for part in parts}
    for folder in [*(out / PARTS).glob("*-of-*"), *(out / GENERATED).glob("*")]:
        if folder.name not in names:
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink(missing_ok=True)
    for part in parts:
        part.lock.unlink(missing_ok=True)
        kept = {
            RECORDS_NAME,
            *(Path(line.value).name for line in part.answers() if line.value and line.field == "image"),
        }
        for path in part.images.glob("*"):
            if path.name not in kept:
                path.unlink(missing_ok=True)
    for folder in out.glob(".worker-*"):
        shutil.rmtree(folder)
