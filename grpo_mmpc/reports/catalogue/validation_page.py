"""The page of ``grpo-mmpc data validate``: what is there, what is missing, what is broken."""

from pathlib import Path

from grpo_mmpc.catalogue.validation import ValidationReport
from grpo_mmpc.catalogue.validation_text import further_texts, kinds_of_fault, verdict
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.reports.common.thumbnails import thumbnails
from grpo_mmpc.utils.files import write_text
from grpo_mmpc.utils.manifest import command_line

_IMAGE_BUDGET = 500_000


def write_validation_page(path: Path, report: ValidationReport) -> None:
    """Write the page of a check; images are those of the largest groups of near-duplicates."""
    folder = Path(report.folder)
    groups = [
        (group, [(item_id, folder / image if image else None) for item_id, image in zip(*items, strict=True)])
        for group in report.largest_groups
        for items in [(group.item_ids, group.images)]
    ]
    shown = [image for _, items in groups for _, image in items if image]
    page = render_page(
        "reports/catalogue/validation.html",
        report=report,
        verdict=verdict(report),
        further_texts=further_texts(report) if report.further_texts else "",
        subtitle=[report.items_file, f"fingerprint {report.fingerprint}"],
        faults=kinds_of_fault(report.quarantined),
        broken_interactions=kinds_of_fault(report.interactions.broken) if report.interactions else [],
        groups=groups,
        images=thumbnails(shown, folders=[folder], budget=_IMAGE_BUDGET),
        command=command_line(),
    )
    write_text(path, page)
