"""``grpo-mmpc data amazon``, ``data synthetic``: Amazon Reviews 2023, and files shaped like it."""

import argparse
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from grpo_mmpc.utils.console import next_command, printer
from grpo_mmpc.utils.options import add_allowed_hosts, add_catalogue_out, non_negative_int, output_folder, positive_int

if TYPE_CHECKING:
    from grpo_mmpc.catalogue.sources.amazon_build import AmazonBuild

say = printer(True)


def add_amazon(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands to those of ``data``."""
    amazon = commands.add_parser(
        "amazon",
        help="convert item metadata and reviews of Amazon Reviews 2023",
        description="Convert item metadata of Amazon Reviews 2023 into a catalogue folder, and reviews of these items "
        "into its interactions.",
    )
    amazon.add_argument(
        "source",
        metavar="SOURCE",
        help="meta_<Category>.jsonl[.gz|.zst] or .parquet, a folder of such files, raw_meta_<Category> (of the hub), "
        "or McAuley-Lab/Amazon-Reviews-2023 (its nine MMPCBench categories)",
    )
    add_catalogue_out(amazon)
    amazon.add_argument("--categories", metavar="NAME", nargs="+", default=[], help="which categories to take")
    amazon.add_argument(
        "--max-items", metavar="N", type=positive_int, help="items to keep of each category, the first ones"
    )
    amazon.add_argument("--download-images", action="store_true", help="fetch each item's main image from the web")
    add_allowed_hosts(amazon)
    amazon.add_argument(
        "--reviews",
        metavar="PATH",
        nargs="+",
        default=[],
        help="also write interactions.parquet from these reviews: <Category>.jsonl[.gz|.zst], .parquet or a "
        "rating-only .csv[.gz|.zst], or raw_review_<Category> (of the hub); needed for the recommendation benchmark",
    )
    amazon.add_argument(
        "--select",
        choices=("cqbench", "recbench"),
        help="only the items of a benchmark: 1,000 a category by the hash of their ids, or those that 1,000 users a "
        "category interacted with; --max-items changes the number",
    )
    amazon.add_argument(
        "--mode",
        choices=("corrected", "paper"),
        default="corrected",
        help="the rules of --select recbench: free of leaks, or those of the official collector (default: corrected)",
    )
    amazon.set_defaults(func=amazon_command)

    synthetic = commands.add_parser(
        "synthetic",
        help="write files shaped like Amazon Reviews 2023",
        description="Write metadata and reviews of the nine MMPCBench categories in every form the data comes in "
        "(plain, gzip, zstd, the hub's Parquet, rating-only CSV, suffixes that lie), with every known fault planted "
        "and listed in planted.jsonl.",
    )
    synthetic.add_argument("--out", metavar="DIR", type=output_folder, required=True, help="folder to write")
    synthetic.add_argument("--items", metavar="N", type=positive_int, default=20_000, help="metadata records (20,000)")
    synthetic.add_argument("--reviews", metavar="M", type=positive_int, default=200_000, help="reviews (200,000)")
    synthetic.add_argument("--seed", metavar="S", type=non_negative_int, default=0, help="same seed, same files (0)")
    synthetic.add_argument("--clean", action="store_true", help="plant no faults")
    synthetic.set_defaults(func=synthetic_command)


def amazon_command(args: argparse.Namespace) -> int:
    """Convert, print what became of the records."""
    from grpo_mmpc.catalogue.sources.amazon_build import build_amazon
    from grpo_mmpc.catalogue.sources.amazon_records import download_source, open_reviews, open_sources
    from grpo_mmpc.catalogue.sources.amazon_reviews import refuse_other_interactions
    from grpo_mmpc.catalogue.sources.download import downloads_into
    from grpo_mmpc.errors import CatalogueError
    from grpo_mmpc.reports.catalogue.data_card_page import write_data_card_page
    from grpo_mmpc.utils.console import Progress
    from grpo_mmpc.utils.locks import hold, in_use

    if args.select == "recbench" and not args.reviews:
        raise CatalogueError("--select recbench takes the items of interactions; give their reviews with --reviews")
    sources = open_sources(args.source, categories=args.categories)
    if args.select or args.max_items is None:
        sources = [download_source(source) for source in sources]  # whole; for the first few it is streamed
    # A mistyped path shows now, not after hours of downloading images.
    reviews = [download_source(source) for source in open_reviews(args.reviews)]
    if reviews:
        refuse_other_interactions(args.out)
    say(f"Writing {args.out} from {args.source}; images that are already there are not fetched again.")
    started = time.monotonic()
    with hold(args.out / ".lock", refuse=in_use(args.out, CatalogueError, command="data")), Progress() as progress:
        fetch = downloads_into(args.out, allowed_hosts=args.allow_host, progress=partial(progress, "images"))
        done = build_amazon(
            sources,
            out=args.out,
            reviews=reviews,
            select=args.select,
            mode=args.mode,
            max_items=args.max_items,
            fetch=fetch if args.download_images else None,
            progress=lambda what: progress(what, 0),
        )
        progress.close()
        page = write_data_card_page(args.out)
    _print_items(done, seconds=time.monotonic() - started, downloaded=args.download_images)
    if reviews:
        _print_reviews(done)
    say(f"Data card: {page}")
    if not sum(done.items.values()):
        if args.select and sum(row.rows for row in done.item_filters[2:3]):
            say(f"No item: the rules of --select {args.select} left none; the data card counts what each one left.")
        else:
            say(f"No item: no record of {args.source} could become one; is it the metadata of products?")
        return 1
    say(next_command("data", "validate", args.out))
    return 0


def synthetic_command(args: argparse.Namespace) -> int:
    """Write the files."""
    print(f"writing {args.out} ...", file=sys.stderr, flush=True)
    from grpo_mmpc.catalogue.sources.amazon_synthetic import write_synthetic

    done = write_synthetic(args.out, num_items=args.items, num_reviews=args.reviews, seed=args.seed, clean=args.clean)
    say(f"{done.num_items:,} metadata records and {done.num_reviews:,} reviews of nine categories: {done.folder}")
    if done.planted:
        say(f"{len(done.planted):,} faults were planted, all in {done.folder / 'planted.jsonl'}")
    say(next_command("data", "amazon", done.folder, "--out", "my_catalogue", "--reviews", *done.reviews))
    return 0


def _print_items(done: "AmazonBuild", *, seconds: float, downloaded: bool) -> None:
    from grpo_mmpc.catalogue.validation_text import broken_rows

    say("Items by category:")
    for category, count in done.items.items():
        say(f"  {category}: {count:,}")
    items = sum(done.items.values())
    say(f"Records read: {done.records_read:,}; items: {items:,}; images: {done.images:,}; {seconds:.0f} s.")
    for rows, what, file in (
        (done.skipped, "Records that could not become items", "skipped.jsonl"),
        (done.image_failures, "Images that could not be fetched (their items were kept)", "image_failures.jsonl"),
    ):
        if rows:
            say(f"{what}: {len(rows):,}, all in {done.folder / file}")
            say("\n".join(broken_rows(rows)))
    if not downloaded:
        say("No image was downloaded: every item's image is empty. Run again with --download-images to fetch them.")


def _print_reviews(done: "AmazonBuild") -> None:
    reviews = done.reviews
    left_out = f"left out by the rules of the selection: {reviews.unselected:,}; " if reviews.unselected else ""
    say(
        f"Reviews read: {reviews.read:,}; written to {done.folder / 'interactions.parquet'}: {reviews.written:,}; of "
        f"products that are not in the catalogue: {reviews.other_items:,}; {left_out}broken: {reviews.broken:,}."
    )
    for row in reviews.examples:
        say(f"  - {row.file} row {row.row}: {row.reason}")
    if not reviews.written and not reviews.unselected:
        say(
            "No review is of an item of this catalogue, so that it has no interactions: are the reviews of the same "
            "category as the metadata?"
        )
