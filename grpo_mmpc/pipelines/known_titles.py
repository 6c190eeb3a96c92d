"""Answer items whose titles are known: to calibrate confidence, and to audit the titles."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.catalogue.images import place_images
from grpo_mmpc.catalogue.splits import product_groups, split_items
from grpo_mmpc.completion.calibration import CALIBRATION_FILE, Judged, fit, judge_fields
from grpo_mmpc.completion.gate import agreement
from grpo_mmpc.completion.part import parts_of
from grpo_mmpc.completion.plan import LOCK, Plan
from grpo_mmpc.config.recorded import config_of_run, recorded_data
from grpo_mmpc.config.sections import GateSection
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.metrics.fields import Fields, contradicted, kind_of
from grpo_mmpc.reports.catalogue.calibration_page import write_calibration_page
from grpo_mmpc.reports.common.labels import plural
from grpo_mmpc.types import ProductRecord
from grpo_mmpc.utils.console import Say
from grpo_mmpc.utils.files import build_folder, remove_left, write_json_lines
from grpo_mmpc.utils.hashing import json_digest, stable_order
from grpo_mmpc.utils.locks import hold

FOLDER = "known_titles"
"""In the output folder: the items that were answered, and the answers."""
AUDIT = "audit.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """One field of an existing title that the attributes or the image deny."""

    item_id: str
    kind: str
    title: str
    title_says: Sequence[str]
    attributes_say: Sequence[str] | None
    """None where they do not deny it."""
    image_says: Sequence[str] | None
    """The policy's reading of the image; None where it does not deny it, or is not sure."""
    confidence: float | None
    """The share of samples that read the same; None without ``image_says``."""

    def text(self) -> str:
        """Return it as a line of text."""
        others = []
        if self.attributes_say is not None:
            others.append(f"the attributes {', '.join(self.attributes_say)}")
        if self.image_says is not None:
            others.append(f"the image {', '.join(self.image_says)} ({self.confidence:.2f})")
        return f"{self.item_id}: the title says {', '.join(self.title_says)}, {' and '.join(others)}"


def calibrate(
    source: Catalogue,
    plan: Plan,
    *,
    out: Path,
    items: int,
    checkpoint: Path | None,
    answer: Callable[[Path, Path], Plan],
    say: Say,
) -> None:
    """Answer items as if their titles were missing, and write what the samples' agreement is worth.

    Variants and near-duplicates are right or wrong together: one item of a product is answered.

    Args:
        source: The catalogue that is completed.
        plan: Of its completion.
        out: The completed catalogue, which gets ``calibration.json`` and a page.
        items: Items to answer at most, chosen by a stable hash.
        checkpoint: Those that its run trained on are left out.
        answer: Answers the gaps of a catalogue folder into another folder, and returns the plan.
        say: Prints what is done.

    Raises:
        CatalogueError: No item has a title and an image, or no answer could be judged.
    """
    chosen = _chosen(source, checkpoint, items)
    if not chosen:
        raise CatalogueError(
            f"{source.folder} has no item with title and image that was not trained on: --calibrate needs true titles; "
            "leave it out"
        )
    say(f"calibrating on {plural(len(chosen), 'product')} with a known title")
    fields = Fields(record.attributes for record in source.records())
    judged: list[Judged] = []
    for record, title, samples in _answered(source, chosen, folder=out / FOLDER, answer=answer):
        judged += judge_fields(
            record.item_id,
            title,
            agreement(title, samples, fields),
            true_title=str(record.title),
            attributes=record.attributes,
            fields=fields,
        )
    fit(judged, policy=plan.policy, samples=plan.samples).write(out)
    page = write_calibration_page(out, judged, samples=plan.samples)
    say(f"calibration: {out / CALIBRATION_FILE}\nwhat a confidence is worth: {page}")


def audit(source: Catalogue, *, out: Path, answer: Callable[[Path, Path], Plan], gate: GateSection, say: Say) -> None:
    """List existing titles that contradict the image, as the policy reads it, or the attributes.

    Args:
        source: The catalogue, which is only read.
        out: Gets ``audit.jsonl``, one line for each field of an item, and the answers.
        answer: Answers the gaps of a catalogue folder into another folder, and returns the plan.
        gate: What the policy says counts from ``gate.confidence`` on.
        say: Prints what is done.
    """
    chosen = _with_both(source, range(len(source)))
    say(f"{source.folder}: {plural(len(source), 'item')}, {len(chosen)} with title and image are looked at")
    fields = Fields(record.attributes for record in source.records())
    given = {
        record.item_id: (title, agreement(title, samples, fields))
        for record, title, samples in _answered(source, chosen, folder=out / FOLDER, answer=answer)
    }
    listed = [
        one
        for record in source.records()
        if record.title
        for one in contradictions(record, *given.get(record.item_id, ("", {})), fields=fields, least=gate.confidence)
    ]
    remove_left(out / AUDIT)
    write_json_lines(out / AUDIT, map(asdict, listed))
    items = len({one.item_id for one in listed})
    denied = sum(one.attributes_say is not None for one in listed)
    seen = sum(one.image_says is not None for one in listed)
    say(
        f"titles that contradict something: {items} (fields denied by attributes: {denied}, by the image: {seen}); "
        "0 values changed"
    )
    for kind, count in Counter(one.kind for one in listed).most_common():
        say(f"  {count} x {kind}, such as {next(one for one in listed if one.kind == kind).text()}")
    say(f"all of them: {out / AUDIT}")


def contradictions(
    record: ProductRecord, answer: str, shares: Mapping[str, float], *, fields: Fields, least: float
) -> list[Contradiction]:
    """Return the fields of an item's title that its attributes, or a confident answer, deny.

    Args:
        record: The item; its title is what is audited.
        answer: The title that the policy gives its image; empty if it gave none.
        shares: The agreement of the samples with that answer, by kind.
        fields: Reads titles.
        least: Agreement below which the answer does not count.
    """
    mine, theirs = fields.stated(str(record.title)), fields.stated(answer)
    denied = contradicted(mine, record.attributes)
    listed = []
    for kind, values in mine.items():
        is_seen = shares.get(kind, 0.0) >= least and kind in theirs and not values & theirs[kind]
        if kind in denied or is_seen:
            known = [value for name, value in record.attributes.items() if kind_of(name) == kind_of(kind)]
            listed.append(
                Contradiction(
                    item_id=record.item_id,
                    kind=kind,
                    title=str(record.title),
                    title_says=sorted(values),
                    attributes_say=known if kind in denied else None,
                    image_says=sorted(theirs[kind]) if is_seen else None,
                    confidence=shares[kind] if is_seen else None,
                )
            )
    return listed


def _answered(
    source: Catalogue, chosen: Sequence[int], *, folder: Path, answer: Callable[[Path, Path], Plan]
) -> Iterator[tuple[ProductRecord, str, Sequence[str | None]]]:
    """Answer items as if their titles were missing; yield each with its title and samples."""
    untitled = folder / json_digest([source.fingerprint, list(chosen)])
    answers = untitled.with_name(f"{untitled.name}-answers")
    if not untitled.exists():
        with build_folder(untitled) as made:
            _write_without_titles(source, chosen, made)
    for other in {*folder.iterdir()} - {untitled, answers}:  # of what the catalogue was before
        shutil.rmtree(other)
    with hold(answers / LOCK, refuse=None):
        plan = answer(untitled, answers)
    records = {record.item_id: record for record in map(source.record, chosen)}
    for part in parts_of(answers, plan.parts):
        for line in part.answers():
            if line.value is not None:
                yield records[line.item_id], line.value, line.samples


def _chosen(source: Catalogue, checkpoint: Path | None, items: int) -> list[int]:
    """Return the positions of items that have both, one of each product, in a stable order."""
    positions: Sequence[int] = range(len(source))
    run = None if checkpoint is None else config_of_run(checkpoint)
    if run is not None:
        data = recorded_data(run)
        if (named := Path(data.catalogue)).exists() and named.samefile(source.folder):
            positions = split_items(source, held_out=data.held_out, salt=data.salt).held_out
    both = _with_both(source, positions)
    ids = [source.record(position).item_id for position in both]
    products = product_groups(source)
    first: dict[int, int] = {}
    for place in stable_order(ids, salt="calibration"):
        first.setdefault(int(products[both[place]]), both[place])
    return [*first.values()][:items]


def _with_both(source: Catalogue, positions: Iterable[int]) -> list[int]:
    return [
        position
        for position in positions
        for record in [source.record(position)]
        if record.title and record.image and record.item_id not in source.broken_images
    ]


def _write_without_titles(source: Catalogue, chosen: Sequence[int], folder: Path) -> None:
    rows = []
    for record in map(source.record, chosen):
        assert record.image is not None
        place_images(record.image, record.images, folder=source.folder, into=folder)
        rows.append(
            {
                "item_id": record.item_id,
                "category": record.category,
                "title": None,
                "description": None,
                "image": record.image,
                "images": list(record.images) or None,
            }
        )
    write_json_lines(folder / "items.jsonl", rows)
