"""What a completed catalogue proposes, as predictions that any scoring takes."""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from grpo_mmpc.catalogue.images import find_image
from grpo_mmpc.completion.apply import items_with_proposals
from grpo_mmpc.completion.proposal import PROPOSALS_FILE, Proposal
from grpo_mmpc.errors import EvaluationError, ImageError
from grpo_mmpc.evaluation.predictions import Prediction, Predictions
from grpo_mmpc.reports.common.labels import plural
from grpo_mmpc.tasks import TASKS


def is_completed(folder: Path) -> bool:
    """Return whether a folder is a catalogue that was completed, or reviewed after that."""
    return (folder / PROPOSALS_FILE).is_file()


def words_of_a_policy(folder: Path, *, fields: Collection[str] = ("title", "image")) -> str | None:
    """Return a warning where a catalogue is taken for the truth that a policy has filled.

    Args:
        folder: The catalogue, completed or not.
        fields: Those of which true values are looked for.
    """
    filled = _filled(folder) if is_completed(folder) else ()
    counts = Counter(one.field for one, is_there in filled if one.field in fields and is_there and not one.reviewed)
    what = " and ".join(plural(count, field) for field, count in counts.items())
    return f"! true here though a completion wrote it and nobody reviewed it: {what} of {folder}" if counts else None


def completed_predictions(folder: Path, *, task: str) -> Predictions:
    """Return what fills the gaps of one task: titles, or images; a gap without is malformed.

    Only items that had the gap are asked of the references.

    Raises:
        EvaluationError: The catalogue lacked nothing of the kind.
        CatalogueError: A proposal cannot be read.
    """
    field = TASKS[task].target
    by_item: dict[str, Prediction] = {}
    for proposal, is_there in _filled(folder):
        if proposal.field != field:
            continue
        title = image = None
        if field == "title":
            title = proposal.value if is_there else None
        elif proposal.value is not None and is_there:
            with suppress(ImageError):  # removed since: as if it had not been rendered
                image = find_image(proposal.value, folder=folder)
        by_item[proposal.item_id] = Prediction(
            item_id=proposal.item_id, prediction=title, prompt_known=field == "title", image=image
        )
    if not by_item:
        raise EvaluationError(f"{folder} has filled no {field}; --task says which of the two to score")
    is_title = field == "title"
    return Predictions(source=folder, by_item=by_item, is_whole=True, has_prompts=is_title, has_images=not is_title)


def _filled(folder: Path) -> Iterator[tuple[Proposal, bool]]:
    """Read proposals, and whether the catalogue has a value there: a review leaves some out."""
    for row, proposal in items_with_proposals(folder):
        if proposal is not None:
            yield proposal, row[proposal.field] is not None
