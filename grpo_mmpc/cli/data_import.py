"""``grpo-mmpc data import`` and ``data export``: a shop's files in, the same with titles out."""

import argparse
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.utils.console import next_command, printer
from grpo_mmpc.utils.options import add_allowed_hosts, add_catalogue_out, output_path

if TYPE_CHECKING:
    from grpo_mmpc.catalogue.sources.importing import Imported
    from grpo_mmpc.catalogue.sources.source_table import SourceTable

say = printer(True)


def add_import(commands: Any) -> None:
    """Add ``data import``."""
    parser = commands.add_parser(
        "import",
        help="make a catalogue of a shop's export, any table, a data set, or a folder of photographs",
        description="Make a catalogue of a shop's export (Shopify, WooCommerce), any CSV, TSV or Excel file, Parquet, "
        "JSON lines, WebDataset, a data set of Hugging Face, or a folder of photographs. Rows that are no items are "
        "set aside with the reason. Interrupted, the same command goes on where it was.",
    )
    parser.add_argument("source", metavar="SOURCE", help="file, folder, 'part-*.parquet' in quotes, or name on the hub")
    add_catalogue_out(parser)
    parser.add_argument(
        "--map",
        metavar="FIELD=COLUMN",
        nargs="+",
        action="extend",
        default=[],
        help="which column is what: item_id, title, description, category, image, attributes, parent_id; several "
        "columns with commas: image=Photo1,Photo2",
    )
    parser.add_argument("--category", metavar="NAME", help="of items that have none (default: products)")
    parser.add_argument("--images", metavar="DIR", type=Path, help="look here for an image's file before it is fetched")
    parser.add_argument("--no-download", action="store_true", help="fetch no image from the web")
    add_allowed_hosts(parser)
    parser.add_argument("--encoding", metavar="NAME", help="of a text file, such as windows-1252 (default: guessed)")
    parser.add_argument("--separator", metavar="CHARACTER", type=_separator, help="of a text file (default: guessed)")
    parser.add_argument(
        "--sheet", metavar="NAME", help="of a workbook (default: the first that is filled and not hidden)"
    )
    parser.set_defaults(func=import_command)


def add_export(commands: Any) -> None:
    """Add ``data export``."""
    parser = commands.add_parser(
        "export",
        help="write what was completed back into the shop's export",
        description="Write the file that was imported again, with the cells filled that the policy has filled; all "
        "else stays as it was, to the byte.",
    )
    parser.add_argument("completed", metavar="COMPLETED", type=Path, help="folder that grpo-mmpc complete has written")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=output_path,
        required=True,
        help="file to write; a folder where several were imported",
    )
    parser.add_argument(
        "--status",
        nargs="+",
        metavar="STATUS",
        choices=("accepted", "review"),
        default=["accepted"],
        help="of the proposals to write: accepted, review (default: accepted)",
    )
    parser.add_argument("--source", metavar="FILE", type=Path, help="where the imported file, or its folder, is now")
    parser.add_argument(
        "--image-address", metavar="URL", help="also write new images, under this beginning of their addresses"
    )
    parser.set_defaults(func=export_command)


def _separator(text: str) -> str:
    character = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}.get(text, text)
    if len(character) != 1 or character in '"\r\n':
        raise argparse.ArgumentTypeError(f"expected one character, or tab, comma, semicolon, got {text!r}")
    return character


def _chosen(words: list[str], columns: Collection[str]) -> dict[str, list[str]]:
    from grpo_mmpc.errors import CatalogueError

    chosen: dict[str, list[str]] = {}
    for word in words:
        name, equals, wanted = word.partition("=")
        if not equals or not name or not wanted:
            raise CatalogueError(f"--map {word}: expected FIELD=COLUMN, such as title=Name")
        if name in chosen:
            raise CatalogueError(f"--map {word}: {name} is given twice; several columns go with commas")
        chosen[name] = [wanted] if wanted in columns else [column.strip() for column in wanted.split(",")]
    return chosen


def import_command(args: argparse.Namespace) -> int:
    """Import, print what became of the rows; 1 without one item."""
    from grpo_mmpc.catalogue.sources.download import downloads_into
    from grpo_mmpc.catalogue.sources.importing import CATEGORY, import_tables
    from grpo_mmpc.catalogue.sources.opening import open_source
    from grpo_mmpc.catalogue.sources.photographs import PHOTOGRAPHS
    from grpo_mmpc.errors import CatalogueError
    from grpo_mmpc.utils.console import Progress
    from grpo_mmpc.utils.locks import hold, in_use

    if args.images is not None and not args.images.is_dir():
        raise CatalogueError(f"--images {args.images} is no folder; correct the path")
    tables = open_source(args.source, encoding=args.encoding, delimiter=args.separator, sheet=args.sheet)
    for table in tables:
        columns = "" if table.kind == PHOTOGRAPHS else f"; {len(table.columns)} columns"
        say(f"Reading {table.path}: {table.kind}{columns}.")
        if table.sheet is not None and table.sheet.others:
            say(f"Sheets not read: {', '.join(table.sheet.others)}; --sheet names the one to read.")
    category = args.category or CATEGORY
    with hold(args.out / ".lock", refuse=in_use(args.out, CatalogueError, command="data")), Progress() as progress:
        fetch = downloads_into(args.out, allowed_hosts=args.allow_host, progress=partial(progress, "images"))
        done = import_tables(
            tables,
            out=args.out,
            chosen=_chosen(args.map, tables[0].columns),
            category=category,
            images_in=args.images,
            fetch=None if args.no_download else fetch,
            progress=progress,
        )
        progress.close()
    _print_import(done, tables, category=category)
    if not sum(done.items.values()):
        say(f"No item: no row of {args.source} could become one.")
        return 1
    say(next_command("data", "validate", args.out))
    return 0


def _print_import(done: "Imported", tables: "list[SourceTable]", *, category: str) -> None:
    from grpo_mmpc.catalogue.sources.listing import namesakes, unread
    from grpo_mmpc.catalogue.sources.photographs import PHOTOGRAPHS
    from grpo_mmpc.catalogue.validation_text import broken_rows
    from grpo_mmpc.utils.console import printable

    if done.shop is not None:
        say(f"An export of {done.shop}, by its columns.")
    for table, fields in zip(tables, done.fields, strict=False):
        if table.kind == PHOTOGRAPHS:  # alone: what columns there are is our own
            continue
        meaning = ", ".join(f"{name} = {' + '.join(columns)}" for name, columns in fields.items() if columns)
        say(printable(f"Columns of {table.path.name}: {meaning}; the others are kept as they are."))
        for column, others in namesakes(table.columns, fields).items():
            say(printable(f"Of columns that are named alike, {column} is read; not read, but kept: {others}."))
        if done.skipped and (advice := unread(table.columns, fields)):
            say(printable(advice))
    if done.defaults["item_id"]:
        say(f"Without identifier: {done.defaults['item_id']:,}; named by file and row.")
    if done.defaults["category"]:
        say(f"Without category: {done.defaults['category']:,}; they get {category!r} (--category names another).")
    items = sum(done.items.values())
    say(f"Rows: {done.rows:,}; items: {items:,}, {done.variants:,} of them variants; images: {done.images:,}.")
    say(f"Without title: {done.missing['title']:,}; without image: {done.missing['image']:,}.")
    if done.not_fetched:
        say(f"Images not fetched: {done.not_fetched:,}; without --no-download they are.")
    if changes := {what: count for what, count in done.cleaned.items() if count}:
        say("Cleaned: " + ", ".join(f"{what} in {count:,} cells" for what, count in sorted(changes.items())) + ".")
    if done.foreign_titles:
        say(f"{done.foreign_titles:,} of {done.titles_judged:,} titles looked at do not pass for English.")
    for rows, what, file in (
        (done.skipped, "Rows that could not become items", "skipped.jsonl"),
        (done.image_failures, "Images that could not be had", "image_failures.jsonl"),
    ):
        if rows:
            say(f"{what}: {len(rows):,}, all in {done.folder / file}")
            say("\n".join(broken_rows(rows)))


def export_command(args: argparse.Namespace) -> int:
    """Write the files, print what was filled; 1 where nothing was."""
    from grpo_mmpc.completion.export import export_completed

    done = export_completed(
        args.completed, args.out, statuses=args.status, source=args.source, image_address=args.image_address
    )
    say("\n".join(f"Written: {file}" for file in done.files))
    cells = ", ".join(f"{count:,} {name} cells" for name, count in done.written.items())
    say(f"{cells or 'No cell'} filled.")
    for reason, count in done.left.most_common():
        say(f"  {count:,} not written: {reason}")
    return 0 if done.written else 1
