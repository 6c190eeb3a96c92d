"""The page of a review: served by the command, or as one file to mail."""

from importlib import resources
from pathlib import Path
from typing import Any

from grpo_mmpc.completion.decisions import MAX_TITLE
from grpo_mmpc.reports.catalogue.completion_page import nano_notes
from grpo_mmpc.reports.catalogue.review_entries import Review
from grpo_mmpc.reports.common.labels import plural
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.reports.common.thumbnails import thumbnails
from grpo_mmpc.utils.files import write_text
from grpo_mmpc.utils.hashing import json_digest

_LARGEST_PX = 512
_FILE_BUDGET = 15_000_000
"""Bytes of all images of a file: what mail servers take."""


def served_page(review: Review, *, by: str) -> str:
    """Return the page that asks its server for items and sends it decisions."""
    return _page(review, details=None, by=by)


def served_entry(review: Review, number: int) -> dict[str, Any]:
    """Return what the served page shows of one proposal."""
    path = review.image(number)
    shown = thumbnails([path] if path else [], folders=[review.folder], budget=2**20, largest_px=_LARGEST_PX)
    return {**review.entry(number), "image": shown.get(path) if path else None}


def write_review_page(path: Path, review: Review) -> None:
    """Write the page as one file that holds all items, and keeps decisions in the browser."""
    paths = [review.image(number) for number in range(len(review.proposals))]
    shown = thumbnails(filter(None, paths), folders=[review.folder], budget=_FILE_BUDGET, largest_px=_LARGEST_PX)
    details = [
        {**review.entry(number), "image": None if image is None else shown.get(image)}
        for number, image in enumerate(paths)
    ]
    write_text(path, _page(review, details=details, by=""))


def _page(review: Review, *, details: list[dict[str, Any]] | None, by: str) -> str:
    script = resources.files("grpo_mmpc").joinpath("reports/catalogue/review.js").read_text(encoding="utf-8")
    overview = review.overview()
    data = {
        "entries": overview,
        "details": details,
        # A file begins anew where it is opened: what was decided here is shown, and not sent back.
        "history": review.history() if details is None else [],
        "key": json_digest([overview, details]),
    }
    return render_page(
        "reports/catalogue/review.html",
        name=review.folder.resolve().name,
        notes=nano_notes(
            *dict.fromkeys(one.model for one in review.proposals if one.model),
            items=[one.item_id for one in review.proposals],
        ),
        subtitle=[plural(len(overview), "proposal"), f"decisions by {by}" if by else "decisions stay in this browser"],
        data=data,
        max_title=MAX_TITLE,
        script=script,
    )
