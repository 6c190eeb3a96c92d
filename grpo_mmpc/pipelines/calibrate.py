"""Calibrate the confidence of a completion on items whose titles are known."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.catalogue.splits import split_items
from grpo_mmpc.completion.calibration import FILE, Judged, fit, judge_fields
from grpo_mmpc.completion.fields import Fields
from grpo_mmpc.completion.gate import AGREEMENT, agreement
from grpo_mmpc.completion.part import parts_of
from grpo_mmpc.completion.plan import LOCK, Plan
from grpo_mmpc.config.yaml_files import read_yaml
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.reports.catalogue.calibration_page import write_calibration_page
from grpo_mmpc.utils.console import Say
from grpo_mmpc.utils.files import build_folder, place_file, write_json_lines
from grpo_mmpc.utils.hashing import json_digest, stable_order
from grpo_mmpc.utils.locks import hold

FOLDER = "calibration"
"""In the completed catalogue: the items that were answered, and the answers."""


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
        raise CatalogueError(f"{source.folder} has no item with title and image that was not trained on")
    folder = out / FOLDER / json_digest([source.fingerprint, chosen])
    say(f"calibrating on {len(chosen)} items with a known title")
    if not folder.exists():
        with build_folder(folder) as made:
            _write_without_titles(source, chosen, made)
    answers = folder.with_name(f"{folder.name}-answers")
    for other in {*folder.parent.iterdir()} - {folder, answers}:  # of what the catalogue was before
        shutil.rmtree(other)
    with hold(answers / LOCK, refuse=None):
        own = answer(folder, answers)
    records = {record.item_id: record for record in map(source.record, chosen)}
    fields = Fields(record.attributes for record in source.records())
    judged: list[Judged] = []
    for part in parts_of(answers, own.parts):
        for line in part.answers():
            if line.value is not None:
                record = records[line.item_id]
                shares = agreement(line.value, line.samples, fields)
                judged += judge_fields(
                    record.item_id,
                    line.value,
                    {f"{AGREEMENT}{kind}": share for kind, share in shares.items()},
                    true_title=str(record.title),
                    attributes=record.attributes,
                    fields=fields,
                )
    fit(judged, policy=plan.policy, samples=plan.samples).write(out)
    page = write_calibration_page(out, judged, samples=plan.samples)
    say(f"calibration: {out / FILE}\nwhat a confidence is worth: {page}")


def _chosen(source: Catalogue, checkpoint: Path | None, items: int) -> list[int]:
    """Return the positions of items that have both, in a stable order of their own."""
    positions: Sequence[int] = range(len(source))
    run = None if checkpoint is None else checkpoint.resolve().parent.parent / "config.yaml"
    if run is not None and run.is_file():
        data = read_yaml(run).get("data", {})
        if Path(str(data.get("catalogue"))).resolve() == source.folder.resolve():
            held_out, salt = float(data.get("held_out", 0.1)), str(data.get("salt", ""))
            positions = split_items(source, held_out=held_out, salt=salt).held_out
    both = [
        position
        for position in positions
        for record in [source.record(position)]
        if record.title and record.image and record.item_id not in source.broken_images
    ]
    ids = [source.record(position).item_id for position in both]
    return [both[place] for place in stable_order(ids, salt="calibration")[:items]]


def _write_without_titles(source: Catalogue, chosen: list[int], folder: Path) -> None:
    rows = []
    for record in map(source.record, chosen):
        path = source.image_path(record)
        assert path is not None and record.image is not None
        place_file(path, folder / record.image)
        rows.append(
            {
                "item_id": record.item_id,
                "category": record.category,
                "title": None,
                "description": None,
                "image": record.image,
            }
        )
    write_json_lines(folder / "items.jsonl", rows)
