"""The page of a data card: where a catalogue comes from, and what every rule left of it."""

import json
from pathlib import Path

from grpo_mmpc.catalogue.quarantine import read_quarantine
from grpo_mmpc.catalogue.validation_text import kinds_of_fault
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.utils.files import read_own, write_text
from grpo_mmpc.utils.manifest import command_line

DATA_CARD_PAGE = "data_card.html"


def write_data_card_page(folder: Path) -> Path:
    """Write the page beside ``data_card.json`` and ``skipped.jsonl``; return its path."""
    card = json.loads(read_own(folder / "data_card.json"))
    what = f"{card['select']}, {card['mode'] or 'one rule'}" if card["select"] else "every item"
    page = render_page(
        "reports/catalogue/data_card.html",
        card=card,
        name=folder.resolve().name,
        subtitle=[what, f"fingerprint {card['fingerprint']}", card["made_by"]],
        faults=kinds_of_fault(read_quarantine(folder / "skipped.jsonl")),
        command=command_line(),
    )
    write_text(folder / DATA_CARD_PAGE, page)
    return folder / DATA_CARD_PAGE
