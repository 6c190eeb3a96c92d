"""The catalogue that a review leaves: decided values in it, rejected ones missing again."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from grpo_mmpc.catalogue.images import place_images, relative_image_path
from grpo_mmpc.catalogue.reader import further_images
from grpo_mmpc.catalogue.sources.importing import RECORD
from grpo_mmpc.catalogue.tables import find_table
from grpo_mmpc.completion.decisions import DECISIONS_FILE, Decision, Decisions, read_decisions
from grpo_mmpc.completion.merge import replacing
from grpo_mmpc.completion.part import GENERATED
from grpo_mmpc.completion.plan import LOCK
from grpo_mmpc.completion.proposal import PROPOSALS_FILE, Proposal, fill, item_of, mark, read_proposals, take_out
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.utils.files import (
    check_inside,
    names_in,
    open_own,
    place_file,
    read_object,
    remove_partial,
    to_json,
    write_json,
)
from grpo_mmpc.utils.locks import hold, in_use

MARK = "reviewed.json"
"""The file that says whose reviewed catalogue a folder is."""
Undecided = Literal["missing", "keep"]
"""What becomes of a value that waits for review and was not decided."""
_BESIDE = ("quarantine.jsonl", RECORD)


@dataclass
class Applied:
    """What became of the proposals."""

    counts: Counter[str] = field(default_factory=Counter)
    """Fields by what was done with them, in words."""
    left_out: list[str] = field(default_factory=list)
    """Decisions that hold for nothing, and why."""


def refuse_reviewed(folder: Path) -> None:
    """Refuse a catalogue that a review has left.

    Raises:
        CatalogueError: It is one; names what was reviewed.
    """
    if source := read_object(folder / MARK).get("completed"):
        raise CatalogueError(f"{folder} is what the review of {source} has left; give {source}")


def apply_decisions(
    folder: Path, out: Path, *, files: Sequence[Path] = (), undecided: Undecided = "missing"
) -> Applied:
    """Write a completed catalogue as its reviewers have decided; the completed one stays as it is.

    Given again it writes the same, or what newer decisions change.

    Args:
        folder: The completed catalogue, with the decisions that were taken on this machine.
        out: The catalogue to write: new, empty, or written by this function from the same folder.
        files: Further files of decisions, whoever wrote them. Of two decisions about one field the
            later file's holds.
        undecided: See ``Undecided``.

    Raises:
        CatalogueError: The folder holds no completion, ``out`` holds something else or is in use,
            or a line of ``files`` is no decision.
        ImageError: An image is gone, or lies outside the folder.
    """
    refuse_reviewed(folder)
    done = Applied()
    decisions = _read(folder, files, done)
    claim = {"completed": str(folder.resolve())}
    if names_in(out) - {LOCK} and read_object(out / MARK) != claim:
        raise CatalogueError(f"{out} is not empty and holds no review of {folder}; give another folder")
    with hold(out / LOCK, refuse=in_use(out, CatalogueError, command="review --apply")):
        check_inside(out / GENERATED, folder=out)  # what is not needed there is removed
        remove_partial(out)
        write_json(out / MARK, claim)
        for path in (*(folder / name for name in _BESIDE), find_table(folder, "interactions")):
            if path is not None and path.is_file() and not path.is_symlink():
                place_file(path, out / path.name)
        _write(folder, out, decisions, undecided, done)
    return done


def _read(folder: Path, files: Sequence[Path], done: Applied) -> Decisions:
    """Read all decisions, and name those that hold for nothing."""
    own = [decision for _, decision in read_decisions(folder / DECISIONS_FILE, skip_broken=True)]
    theirs = {path: list(read_decisions(path)) for path in files}
    wanted = {decision.key for decision in own} | {one.key for lines in theirs.values() for _, one in lines}
    proposals = {one.key: one for one in read_proposals(folder) if one.key in wanted}
    decisions = Decisions(own)
    for path, lines in theirs.items():
        for number, decision in lines:
            if decision.key not in proposals:
                what = f"the {decision.field} of {decision.item_id}"
                done.left_out.append(f"{path}, line {number}: {folder} has no proposal for {what}")
        # As a whole: an undo takes back what was decided in the same file only.
        for decision in Decisions(decision for _, decision in lines if decision.key in proposals).last().values():
            decisions.add(decision)
    for key, decision in decisions.last().items():
        what = f"the {decision.field} of {decision.item_id}"
        if key not in proposals:
            done.left_out.append(f"{what} has no proposal any more")
        elif not decision.suits(proposals[key]):
            done.left_out.append(f"{what} was decided when another value was proposed; review it again")
    return decisions


def _write(folder: Path, out: Path, decisions: Decisions, undecided: Undecided, done: Applied) -> None:
    generated = set()
    with replacing(out) as (items, proposals, incomplete):
        for row, proposal in items_with_proposals(folder):
            if proposal is not None:
                if not take_out(row, proposal):  # a true value is never overwritten
                    raise CatalogueError(
                        f"{folder}: items.jsonl and proposals.jsonl differ in the {proposal.field} of "
                        f"{proposal.item_id}; give the command that completed it again"
                    )
                proposal, value, what = _applied(proposal, decisions.about(proposal), undecided)
                done.counts[what] += 1
                if value is not None:
                    fill(row, proposal.field, value)
                mark(row, proposal.field, is_filled=value is not None)
                proposals.write(f"{to_json(proposal.to_json())}\n")
                if value is None:
                    left = {"item_id": proposal.item_id, "reason": what, "detail": "; ".join(proposal.reasons)}
                    incomplete.write(f"{to_json(left)}\n")
            if row["image"] is not None:
                further = further_images(row.get("images"), image=row["image"])
                place_images(row["image"], further, folder=folder, into=out)
                generated.add(out / relative_image_path(row["image"]))
            items.write(f"{to_json(row)}\n")
    for path in (out / GENERATED).rglob("*"):
        if path.is_file() and path not in generated:  # of an earlier time: rejected since
            path.unlink()


def items_with_proposals(folder: Path) -> Iterator[tuple[dict[str, Any], Proposal | None]]:
    """Read each item with the proposal for the field that it lacked; both files have one order."""
    proposals = read_proposals(folder)
    waiting = next(proposals, None)
    with open_own(folder / "items.jsonl") as lines:
        for row in (item_of(line, folder=folder) for line in lines):
            if waiting is None or waiting.item_id != row["item_id"]:
                yield row, None
                continue
            yield row, waiting
            waiting = next(proposals, None)
    if waiting is not None:
        raise CatalogueError(
            f"{folder / PROPOSALS_FILE} and items.jsonl beside it do not belong together: no item {waiting.item_id} in "
            "the same order; complete the catalogue again"
        )


def _applied(proposal: Proposal, decision: Decision | None, undecided: Undecided) -> tuple[Proposal, str | None, str]:
    """Return the proposal as it is now, the value of the field, and what was done in words."""
    if decision is None:
        if proposal.status == "review" and undecided == "missing":
            return proposal, None, "waiting for review, left missing"
        words = {"accepted": "accepted by the completion", "review": "waiting for review, kept", "failed": "failed"}
        return proposal, proposal.value, words[proposal.status]
    before = {"value": proposal.value, "status": proposal.status}
    after = replace(
        proposal, reviewed={"decision": decision.decision, "by": decision.by, "when": decision.when} | before
    )
    if decision.decision == "reject":
        reasons = [*proposal.reasons, f"rejected by {decision.by}"]
        return replace(after, value=None, status="failed", reasons=reasons), None, "rejected"
    if decision.decision == "edit":
        return (
            replace(after, value=decision.value, status="accepted", source="person", source_item=None),
            decision.value,
            "edited",
        )
    return replace(after, status="accepted"), proposal.value, "accepted by a reviewer"
