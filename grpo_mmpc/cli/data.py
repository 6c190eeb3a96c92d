"""``grpo-mmpc data``: build catalogues and check them."""

import argparse
from functools import partial
from pathlib import Path

from grpo_mmpc.cli.data_amazon import add_amazon
from grpo_mmpc.cli.data_import import add_export, add_import
from grpo_mmpc.utils.console import next_command, printer, reading
from grpo_mmpc.utils.options import add_catalogue_out, output_file, positive_int

say = printer(True)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``data validate``, ``import``, ``export``, ``amazon``, ``synthetic``, ``mask``, ``nano``.

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

    add_import(commands)
    add_export(commands)
    add_amazon(commands)

    mask = commands.add_parser(
        "mask",
        help="take titles or images away, for others to complete",
        description="Write a copy of a catalogue without the titles (images) of some items. Complete it with any "
        "policy, and grpo-mmpc recbench measures what the completions are worth.",
    )
    mask.add_argument("catalogue", metavar="CATALOGUE", help="catalogue folder, or nano:catalogue")
    add_catalogue_out(mask)
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
    add_catalogue_out(nano)
    nano.add_argument("--num-items", metavar="N", type=positive_int, default=3600, help="items to draw (default: 3600)")
    nano.add_argument("--seed", metavar="S", type=int, default=0, help="same seed, same catalogue (default: 0)")
    nano.add_argument(
        "--hard",
        action="store_true",
        help="cover and blur the images, and give some items brands and types that no policy has seen",
    )
    nano.set_defaults(func=nano_command)


def validate_command(args: argparse.Namespace) -> int:
    """Print the report; 1 without one usable row, with ``--strict`` when anything is broken."""
    reading(args.catalogue)
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
    untitled = sum(counts.missing_title for counts in report.categories)
    whole = report.items - untitled - sum(counts.missing_image for counts in report.categories)  # none lacks both
    train = partial(next_command, "train", "recipes/nano.yaml", f"data.catalogue={args.catalogue}")
    if untitled or (report.items and not whole):
        if whole:
            say(train(label="to align a policy on it first"))
        say(next_command("complete", args.catalogue, "--out", "COMPLETED", "--checkpoint", "DIR"))
    elif whole:
        say(train())
    return 1 if not report.items or (args.strict and report.is_broken) else 0


def mask_command(args: argparse.Namespace) -> int:
    """Write the catalogue with gaps."""
    from grpo_mmpc.catalogue import load_catalogue
    from grpo_mmpc.nano.catalogue import catalogue_folder
    from grpo_mmpc.recbench import Missingness, write_masked_catalogue
    from grpo_mmpc.reports.common.labels import plural

    missingness = Missingness(rate=args.rate, modality=args.missing, clustered_by=args.clustered_by, salt=args.salt)
    before = (args.out / "mask.json").is_file()
    done = write_masked_catalogue(load_catalogue(catalogue_folder(args.catalogue)), args.out, missingness)
    if before:
        print("nothing to do: it was written earlier")
    what = {"text": "title", "image": "image"}[args.missing]
    print(f"Catalogue: {args.out}, {plural(done.items, 'item')}, {done.masked:,} without their {what}")
    if done.already_missing or done.spared:
        say(f"{done.already_missing:,} had none before; {done.spared:,} kept theirs because they have nothing else.")
    say(next_command("complete", args.out, "--checkpoint", "DIR", "--out", "COMPLETED"))
    return 0


def nano_command(args: argparse.Namespace) -> int:
    """Write the procedural catalogue."""
    from grpo_mmpc.nano.catalogue import build_catalogue

    print(f"Drawing {args.num_items:,} products into {args.out} ...", flush=True)
    folder = build_catalogue(args.out, num_items=args.num_items, seed=args.seed, hard=args.hard)
    print(f"Catalogue: {folder}")
    say(next_command("data", "validate", folder))
    return 0
