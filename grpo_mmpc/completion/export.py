"""Write the filled fields of a completed catalogue back into the files it was imported from."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from grpo_mmpc.catalogue.rows import RowError
from grpo_mmpc.catalogue.sources import delimited
from grpo_mmpc.catalogue.sources.cleaning import cleaned, has_words
from grpo_mmpc.catalogue.sources.importing import identifier, import_record, read_listings
from grpo_mmpc.catalogue.sources.listing import Listing
from grpo_mmpc.catalogue.sources.opening import open_source
from grpo_mmpc.catalogue.sources.source_table import SourceTable
from grpo_mmpc.completion.apply import MARK
from grpo_mmpc.completion.plan import CLAIM
from grpo_mmpc.completion.predictions import is_completed
from grpo_mmpc.completion.proposal import read_proposals
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.reports.common.tables import harmless
from grpo_mmpc.utils.files import read_object, remove_left, replace_atomically, to_json
from grpo_mmpc.utils.hashing import file_digest

Cells = Mapping[int, Mapping[str, str]]
"""Texts by data row and column."""


@dataclass(slots=True, kw_only=True)
class Exported:
    """What became of the proposals."""

    files: list[Path] = field(default_factory=list)
    """Files written, in the order of the files imported."""
    written: Counter[str] = field(default_factory=Counter)
    """Cells that were filled, by field; of attributes the facts."""
    left: Counter[str] = field(default_factory=Counter)
    """Proposals, and facts of them, that were not written, by the reason."""


def export_completed(
    folder: Path,
    out: Path,
    *,
    statuses: Collection[str] = ("accepted",),
    source: Path | None = None,
    image_address: str | None = None,
) -> Exported:
    """Write each imported file again, with the cells filled for which there is a proposal.

    A catalogue that was completed several times, for one field after the other, holds the last
    proposals; those before are read from the catalogues that it was completed from.

    All else stays as it was, to the byte, in a CSV file and in each part of a workbook. A text that
    a spreadsheet would run as a formula gets an apostrophe before it.

    Args:
        folder: A completed catalogue whose source was written by ``data import``.
        out: The file to write; a folder where several files were imported.
        statuses: Of the proposals to write.
        source: Where the file that was imported lies now; None is where it lay then.
        image_address: The beginning of the addresses at which the shop finds the new images by
            their files' names; None writes no images.

    Raises:
        CatalogueError: The catalogue was not imported from files that can be written back, or they
            have changed since.
    """
    done = Exported()
    wanted = _wanted(folder, statuses=statuses, image_address=image_address, done=done)
    record = _record(folder)
    tables = _tables(record, source=source)
    targets = [out / table.path.name for table in tables] if len(tables) > 1 else [out]
    for table, target in zip(tables, targets, strict=True):
        if target.exists() and target.samefile(table.path):
            raise CatalogueError(f"--out {target} is the file that was imported; give another one")
        if target.suffix.lower() != table.path.suffix.lower():
            raise CatalogueError(f"--out {target}: a {table.path.suffix} file was imported; give one of that suffix")
    cells = _cells(tables, record["map"], wanted, done=done)
    with ExitStack() as stack:  # all or none
        for table, target in zip(tables, targets, strict=True):
            remove_left(target)
            temporary = stack.enter_context(replace_atomically(target))
            with temporary.open("wb") as file:
                _write(table, file, cells[table.path])
            done.files.append(target)
    return done


def can_be_exported(folder: Path) -> bool:
    """Return whether a catalogue was imported from files that can be written back."""
    path = import_record(folder)
    files = None if path is None else read_object(path).get("files")
    return isinstance(files, list) and all(isinstance(file, dict) and file.get("options") for file in files)


def _wanted(
    folder: Path, *, statuses: Collection[str], image_address: str | None, done: Exported
) -> dict[tuple[str, str], str]:
    """Return the texts to write, by item and field."""
    wanted: dict[tuple[str, str], str] = {}
    # Of attributes each completion adds some; any other field it fills anew.
    proposals = {
        (*one.key, part if one.field == "attributes" else None): one
        for part in _completions(folder)
        for one in read_proposals(part)
    }
    for one in proposals.values():
        if one.value is None or one.status not in statuses:
            done.left[f"the status is {one.status}"] += 1
        elif one.field == "image" and image_address is None:
            done.left["a new image; upload it and add --image-address with the beginning of its address"] += 1
        elif one.field == "attributes":
            wanted[one.key] = to_json(json.loads(wanted.get(one.key, "{}")) | json.loads(one.value))
        else:
            address = f"{(image_address or '').rstrip('/')}/{Path(one.value).name}"
            wanted[one.key] = address if one.field == "image" else one.value
    return wanted


def _completions(folder: Path) -> list[Path]:
    """Return the completed catalogues that one was made of, and itself at last."""
    folders: list[Path] = []
    while folder not in folders:
        folders.insert(0, folder)
        completed = Path(read_object(folder / MARK).get("completed") or folder)
        catalogue = Path(read_object(completed / CLAIM).get("catalogue") or folder)
        folder = catalogue if is_completed(catalogue) else folder
    return folders


def _record(folder: Path) -> dict[str, Any]:
    path = import_record(folder)
    record = {} if path is None else read_object(path)
    if not {"files", "map", "shop"} <= record.keys():
        raise CatalogueError(
            f"{folder} has no import.json: it was not made from an export; its titles are in {folder / 'items.jsonl'}"
        )
    return record


def _tables(record: Mapping[str, Any], *, source: Path | None) -> list[SourceTable]:
    """Open the imported files as they were opened then."""
    tables = []
    for file in record["files"]:
        path = Path(file["path"])
        if not file["options"]:
            raise CatalogueError(f"{path} ({file['kind']}) cannot be written back; use items.jsonl of the catalogue")
        if source is not None:
            path = source / path.name if source.is_dir() else source
        if not path.is_file():
            raise CatalogueError(f"{path}, which was imported, is not there; say where it is: --source FILE")
        if file_digest(path) != file["digest"]:
            raise CatalogueError(
                f"{path} has changed since it was imported; import and complete it again: only what is new is asked"
            )
        tables += open_source(str(path), **file["options"])
    return tables


def _cells(
    tables: list[SourceTable], chosen: Mapping[str, list[str]], wanted: dict[tuple[str, str], str], *, done: Exported
) -> Mapping[Path, Cells]:
    """Find the cell of each text: the items are read as the import read them."""
    cells: dict[Path, dict[int, dict[str, str]]] = {table.path: defaultdict(dict) for table in tables}
    seen: set[str] = set()
    for table, listing in read_listings(tables, chosen).listings:
        if listing.problem is not None:
            continue
        try:
            item_id, _ = identifier(listing, table, Counter())
        except RowError:
            continue
        if item_id in seen:
            continue
        seen.add(item_id)
        for name in ("title", "image", "description"):
            text = wanted.pop((item_id, name), None)
            if text is None:
                continue
            problem = _problem(listing, name, text, table)
            if problem is None:
                spelled = listing.spell_description(text) if name == "description" else text
                cells[table.path][listing.row][listing.cells[name]] = str(harmless(spelled))
                done.written[name] += 1
            else:
                done.left[problem] += 1
        facts = wanted.pop((item_id, "attributes"), None)
        if facts is not None:
            stated = _stated(listing, json.loads(facts), table, done)
            cells[table.path][listing.row] |= {column: str(harmless(text)) for column, text in stated.items()}
    if wanted:
        done.left["the export has no such item"] += len(wanted)
    return cells


def _stated(listing: Listing, facts: Mapping[str, Any], table: SourceTable, done: Exported) -> dict[str, str]:
    """Return the texts that state facts, by column."""
    values, stated = dict(listing.values), dict[str, str]()
    for name, value in facts.items():
        new = {} if listing.state is None else listing.state(values, name, value)
        problem = next(
            filter(None, (_unspellable(text, table, listing.row, column) for column, text in new.items())), None
        )
        if not new or problem:
            done.left[problem or f"no empty column for the attribute {name} of the item"] += 1
            continue
        done.written["attribute"] += 1
        values |= new
        stated |= new
    return stated


def _problem(listing: Listing, name: str, text: str, table: SourceTable) -> str | None:
    """Return the reason why a text cannot be written; true values are never overwritten."""
    if listing.cells.get(name) not in table.columns:
        return f"a variant, or a table, without a column for the {name}: it has that of its product"
    if name == "image":
        if listing.images:
            return "the export has an image there, which could not be had"
    else:
        there = cleaned(getattr(listing, name), Counter())
        if there is not None and (name == "description" or has_words(there)):
            return f"the export has a {name} there"
    return _unspellable(text, table, listing.row, listing.cells[name])


def _unspellable(text: str, table: SourceTable, row: int, column: str) -> str | None:
    if table.sheet is not None:
        return table.sheet.refusal(row, column, text)
    encoding = table.options.get("encoding", "utf-8")
    try:
        text.encode(encoding)
    except UnicodeEncodeError as error:
        return f"{text[error.start]!r} cannot be written as {encoding}; save the export as UTF-8 and import it again"
    return None


def _write(table: SourceTable, file: BinaryIO, cells: Cells) -> None:
    if table.sheet is not None:
        table.sheet.write_filled(file, cells)
    else:
        dialect = delimited.Dialect(encoding=table.options["encoding"], delimiter=table.options["delimiter"])
        delimited.write_filled(table.path, file, dialect, cells)
