"""``grpo-mmpc complete``: fill the missing titles and images of a catalogue."""

import argparse
from pathlib import Path
from typing import Any

from grpo_mmpc.utils.console import reading
from grpo_mmpc.utils.options import add_engine, add_policy, add_workers, check_engine, output_folder, positive_int


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "complete",
        help="fill the missing titles and images of a whole catalogue",
        description=(
            "Read a catalogue folder, let the policy write the missing titles and draw the missing images, or answer "
            "the recipe's own tasks, and write a catalogue folder. Interrupted, the same command goes on where it was."
        ),
        epilog="example: grpo-mmpc complete my_catalogue --out completed --checkpoint "
        "runs/nano/checkpoints/checkpoint-80",
    )
    parser.add_argument("catalogue", type=Path, metavar="CATALOGUE", help="catalogue folder")
    parser.add_argument(
        "--out", type=output_folder, required=True, metavar="DIR", help="folder of the completed catalogue"
    )
    add_policy(parser)
    parser.add_argument(
        "--recipe",
        nargs="+",
        default=[],
        metavar="RECIPE|KEY=VALUE",
        help="model, engine and renderer (default: the model of the run that the checkpoint belongs to)",
    )
    add_engine(parser, runs="workers")
    add_workers(parser)
    parser.add_argument(
        "--part",
        type=_share,
        metavar="I/N",
        help="fill the I-th of N shares, for arrays of a batch system; whoever sees that all are there merges them",
    )
    parser.add_argument(
        "--siblings",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="first take titles from variants, items with the same image and the item's own fields (default: yes)",
    )
    parser.add_argument(
        "--samples",
        type=positive_int,
        default=0,
        metavar="K",
        help="also sample K titles at temperature 1: the share that agrees is the confidence in each field (default: "
        "none)",
    )
    parser.add_argument(
        "--calibrate",
        type=positive_int,
        default=0,
        metavar="N",
        help="first answer N items whose title is known, to learn how often an agreement is right; needs --samples",
    )
    parser.add_argument(
        "--audit",
        action="store_true",
        help="fill nothing: list existing titles that contradict their image or attributes; needs --samples",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="take over the completion by another policy; all items are asked again"
    )
    parser.set_defaults(func=run)


def _share(text: str) -> tuple[int, int]:
    """Read ``I/N`` with I from 1 to N."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, such as 2/8, got {text}")
    return int(number), int(count)


def run(arguments: argparse.Namespace) -> int:
    """Load the recipe and complete."""
    from grpo_mmpc.errors import ConfigError
    from grpo_mmpc.pipelines.recipe import load_policy_recipe

    if arguments.part is not None and (arguments.engine == "ray" or arguments.workers is not None):
        raise ConfigError(["--part fills its share in one process; leave --engine and --workers out"])
    check_engine(arguments)
    if arguments.calibrate and (not arguments.samples or arguments.part is not None):
        raise ConfigError(["--calibrate needs --samples, and one command for all parts: leave --part out"])
    if arguments.audit and (not arguments.samples or arguments.part is not None or arguments.calibrate):
        raise ConfigError(["--audit needs --samples and knows neither --part nor --calibrate"])
    config = load_policy_recipe(arguments.recipe, checkpoint=arguments.checkpoint, place="behind --recipe")
    reading(arguments.catalogue)
    # heavy: imported on use
    from grpo_mmpc.pipelines.complete import Workers, audit_catalogue, complete_catalogue

    workers = Workers(
        engine=arguments.engine,
        count=arguments.workers,
        ray_address=arguments.ray_address,
        share=arguments.part,
    )
    if arguments.audit:
        audit_catalogue(
            config,
            catalogue=arguments.catalogue,
            out=arguments.out,
            checkpoint=arguments.checkpoint,
            workers=workers,
            samples=arguments.samples,
        )
        return 0
    complete_catalogue(
        config,
        catalogue=arguments.catalogue,
        out=arguments.out,
        checkpoint=arguments.checkpoint,
        workers=workers,
        siblings=arguments.siblings,
        samples=arguments.samples,
        calibrate_on=arguments.calibrate,
        overwrite=arguments.overwrite,
    )
    return 0
