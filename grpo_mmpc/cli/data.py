"""``grpo-mmpc data``: build catalogues and check them."""

import argparse
import shlex
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.utils.options import output_file, output_folder, positive_int

if TYPE_CHECKING:
    from grpo_mmpc.catalogue.sources.amazon_items import AmazonConversion
    from grpo_mmpc.catalogue.sources.amazon_reviews import ReviewConversion
    from grpo_mmpc.utils.console import Progress


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``data validate``, ``data amazon``, ``data mask`` and ``data nano``.

    Each sets ``func`` to a function(args) -> exit code.
    """
    parser = subparsers.add_parser("data", help="build and check catalogues", description="Build and check catalogues.")
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")

    validate = commands.add_parser(
        "validate",
        help="check every row and image of a catalogue folder",
        description="Check every row and image of a catalogue folder: counts per category, what is missing, what is "
        "broken (file, row, reason), near-duplicates, interactions.",
    )
    validate.add_argument(
        "catalogue", metavar="DIR", type=Path, help="folder with items.{parquet,jsonl,csv} and images"
    )
    validate.add_argument("--strict", action="store_true", help="exit with 1 when any row is broken")
    validate.add_argument(
        "--json", metavar="OUT", type=output_file, help="also write the whole report here, every row named"
    )
    validate.add_argument("--html", metavar="OUT", type=output_file, help="also write it here as a page")
    validate.set_defaults(func=validate_command)

    amazon = commands.add_parser(
        "amazon",
        help="convert item metadata and reviews of Amazon Reviews 2023",
        description="Convert item metadata of Amazon Reviews 2023 into a catalogue folder, and reviews of these items "
        "into its interactions.",
    )
    amazon.add_argument(
        "source",
        metavar="SOURCE",
        help="meta_<Category>.jsonl[.gz] or .parquet, a folder of such files, raw_meta_<Category> (streamed from the "
        "hub), or McAuley-Lab/Amazon-Reviews-2023 (its nine MMPCBench categories)",
    )
    amazon.add_argument("--out", metavar="DIR", type=output_folder, required=True, help="catalogue folder to write")
    amazon.add_argument("--categories", metavar="NAME", nargs="+", default=[], help="which categories to take")
    amazon.add_argument(
        "--max-items", metavar="N", type=positive_int, help="items to keep of each category, the first ones"
    )
    amazon.add_argument("--download-images", action="store_true", help="fetch each item's main image from the web")
    amazon.add_argument(
        "--allow-host", metavar="HOST", action="append", default=[], help="an image server in your own network"
    )
    amazon.add_argument(
        "--reviews",
        metavar="PATH",
        nargs="+",
        default=[],
        help="also write interactions.jsonl from these reviews: <Category>.jsonl[.gz], or raw_review_<Category> "
        "(streamed from the hub); needed for the recommendation benchmark",
    )
    amazon.set_defaults(func=amazon_command)

    mask = commands.add_parser(
        "mask",
        help="take titles or images away, for others to complete",
        description="Write a copy of a catalogue without the titles (images) of some items. Complete it with any "
        "policy, and grpo-mmpc recbench measures what the completions are worth.",
    )
    mask.add_argument("catalogue", metavar="CATALOGUE", help="catalogue folder, or nano:catalogue")
    mask.add_argument("--out", metavar="DIR", type=output_folder, required=True, help="catalogue folder to write")
    mask.add_argument("--missing", choices=("text", "image"), default="text", help="what to take away (default: text)")
    mask.add_argument(
        "--rate",
        metavar="R",
        type=float,
        default=1.0,
        help="from what share of the items (default: 1.0, which serves all rates)",
    )
    mask.add_argument("--clustered-by", choices=("category", "brand"), help="from whole categories or brands")
    mask.add_argument("--salt", default="recbench", help="another one takes it from other items (default: recbench)")
    mask.set_defaults(func=mask_command)

    nano = commands.add_parser(
        "nano",
        help="write the embedded procedural catalogue",
        description="Write the embedded procedural catalogue: drawn products of nine categories with titles, "
        "descriptions, attributes and interactions.",
    )
    nano.add_argument("--out", metavar="DIR", type=output_folder, required=True, help="catalogue folder to write")
    nano.add_argument("--num-items", metavar="N", type=positive_int, default=3600, help="items to draw (default: 3600)")
    nano.add_argument("--seed", metavar="S", type=int, default=0, help="same seed, same catalogue (default: 0)")
    nano.set_defaults(func=nano_command)


def validate_command(args: argparse.Namespace) -> int:
    """Print the report; 1 without one usable row, with ``--strict`` when anything is broken."""
    from grpo_mmpc.catalogue.validation import validate_catalogue
    from grpo_mmpc.catalogue.validation_text import format_report
    from grpo_mmpc.nano.catalogue import catalogue_folder
    from grpo_mmpc.utils.files import write_json

    report = validate_catalogue(catalogue_folder(str(args.catalogue)))
    print(format_report(report))
    if args.json is not None:
        write_json(args.json, report.to_json(), indent=2)
        print(f"Written to {args.json}")
    if args.html is not None:
        from grpo_mmpc.reports.catalogue.validation_page import write_validation_page

        write_validation_page(args.html, report)
        print(f"Page: {args.html}")
    if report.items:
        print(_next(f"grpo-mmpc train recipes/nano.yaml {shlex.quote(f'data.catalogue={args.catalogue}')}"))
    return 1 if not report.items or (args.strict and report.is_broken) else 0


def amazon_command(args: argparse.Namespace) -> int:
    """Convert, print what became of the records."""
    from grpo_mmpc.catalogue.sources.amazon_items import convert_amazon_metadata
    from grpo_mmpc.catalogue.sources.amazon_records import open_reviews, open_sources
    from grpo_mmpc.catalogue.sources.amazon_reviews import item_ids, refuse_other_interactions, write_reviews
    from grpo_mmpc.catalogue.sources.download import Download, download_images
    from grpo_mmpc.errors import CatalogueError
    from grpo_mmpc.utils.console import Progress
    from grpo_mmpc.utils.locks import hold, in_use

    sources = open_sources(args.source, categories=args.categories)
    reviews = open_reviews(args.reviews)  # a mistyped path shows now, not after hours of downloading images
    if reviews:
        refuse_other_interactions(args.out)
    print(f"Writing {args.out} from {args.source}; images that are already there are not fetched again.", flush=True)
    started = time.monotonic()
    with hold(args.out / ".lock", refuse=in_use(args.out, CatalogueError, command="data")), Progress() as progress:

        def fetch(downloads: "Iterable[Download]") -> "Mapping[Path, str]":
            return download_images(
                downloads,
                journal=args.out / "images_not_there.jsonl",
                allowed_hosts=frozenset(args.allow_host),
                progress=lambda count: progress("images", count),
            )

        done = convert_amazon_metadata(
            sources,
            out=args.out,
            max_items=args.max_items,
            fetch=fetch if args.download_images else None,
            progress=partial(_show_items, progress),
        )
        progress.close()
        _print_conversion(done, seconds=time.monotonic() - started, downloaded=args.download_images)
        if reviews:
            converted = write_reviews(
                reviews, out=args.out, known_items=item_ids(args.out), progress=partial(_show_reviews, progress)
            )
            progress.close()
            _print_reviews(converted, out=args.out)
    if not sum(done.items.values()):
        print(f"No item: no record of {args.source} could become one; is it the metadata of products?")
        return 1
    print(_next(f"grpo-mmpc data validate {shlex.quote(str(args.out))}"))
    return 0


def mask_command(args: argparse.Namespace) -> int:
    """Write the catalogue with gaps."""
    from grpo_mmpc.catalogue import load_catalogue
    from grpo_mmpc.nano.catalogue import catalogue_folder
    from grpo_mmpc.recbench import Missingness, write_masked_catalogue

    missingness = Missingness(rate=args.rate, modality=args.missing, clustered_by=args.clustered_by, salt=args.salt)
    before = (args.out / "mask.json").is_file()
    done = write_masked_catalogue(load_catalogue(catalogue_folder(args.catalogue)), args.out, missingness)
    if before:
        print("nothing to do: it was written earlier")
    what = {"text": "title", "image": "image"}[args.missing]
    print(f"Catalogue: {args.out}, {done.items:,} items, {done.masked:,} without their {what}")
    if done.already_missing or done.spared:
        print(f"{done.already_missing:,} had none before; {done.spared:,} kept theirs because they have nothing else.")
    print(_next(f"grpo-mmpc complete {shlex.quote(str(args.out))} --checkpoint DIR --out COMPLETED"))
    return 0


def nano_command(args: argparse.Namespace) -> int:
    """Write the procedural catalogue."""
    from grpo_mmpc.nano.catalogue import build_catalogue

    print(f"Drawing {args.num_items:,} products into {args.out} ...", flush=True)
    folder = build_catalogue(args.out, num_items=args.num_items, seed=args.seed)
    print(f"Catalogue: {folder}")
    print(_next(f"grpo-mmpc data validate {shlex.quote(str(folder))}"))
    return 0


def _show_items(progress: "Progress", done: "AmazonConversion") -> None:
    items, category = sum(done.items.values()), next(reversed(done.items), "")
    progress("records", done.records_read, detail=f"{items:,} items, {done.images:,} images, now {category}")


def _print_conversion(done: "AmazonConversion", *, seconds: float, downloaded: bool) -> None:
    from grpo_mmpc.catalogue.validation_text import broken_rows

    print("Items by category:")
    for category, count in done.items.items():
        print(f"  {category}: {count:,}")
    items = sum(done.items.values())
    print(f"Records read: {done.records_read:,}; items: {items:,}; images: {done.images:,}; {seconds:.0f} s.")
    for rows, what, file in (
        (done.skipped, "Records that could not become items", "skipped.jsonl"),
        (done.image_failures, "Images that could not be fetched (their items were kept)", "image_failures.jsonl"),
    ):
        if rows:
            print(f"{what}: {len(rows):,}, all in {done.folder / file}")
            print("\n".join(broken_rows(rows)))
    if not downloaded:
        print("No image was downloaded: every item's image is empty. Run again with --download-images to fetch them.")


def _show_reviews(progress: "Progress", done: "ReviewConversion") -> None:
    progress("reviews", done.read, detail=f"{done.written:,} of the catalogue's items")


def _print_reviews(done: "ReviewConversion", *, out: Path) -> None:
    print(
        f"Reviews read: {done.read:,}; written to {out / 'interactions.jsonl'}: {done.written:,}; of products that are "
        f"not in the catalogue: {done.other_items:,}; broken: {done.broken:,}."
    )
    for row in done.examples:
        print(f"  - {row.file} row {row.row}: {row.reason}")
    if not done.written:
        print(
            "No review is of an item of this catalogue, so that it has no interactions: are the reviews of the same "
            "category as the metadata?"
        )


def _next(command: str) -> str:
    return f"Next: {command}"
