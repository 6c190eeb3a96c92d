"""``grpo-mmpc train``: align a policy, evaluating before, after each checkpoint, and at the end."""

import argparse
from typing import Any

from grpo_mmpc.utils.options import add_recipe


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "train",
        help="align a policy with GRPO and measure it before and after",
        description="Run a recipe. Several YAML files merge left to right; key=value overrides come last.",
        epilog=(
            "example: grpo-mmpc train recipes/nano.yaml recipes/mixes/bleu.yaml trainer.max_steps=20\n"
            "multi-GPU: accelerate launch --config_file launch/accelerate/zero3.yaml -m grpo_mmpc train RECIPE"
        ),
    )
    add_options(parser)
    parser.set_defaults(func=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that trains."""
    add_recipe(parser)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resume", action="store_true", help="continue, as the command does anyway")
    group.add_argument("--overwrite", action="store_true", help="delete what an earlier run left in run_dir")
    parser.add_argument(
        "--check",
        action="store_true",
        help="only check recipe, catalogue and run folder: print all values with their origin, what they come to, ok",
    )


def run(arguments: argparse.Namespace) -> int:
    """Load the recipe and run it."""
    if arguments.check:
        from grpo_mmpc.pipelines.check import check_run

        check_run(arguments.recipe, overwrite=arguments.overwrite)
        return 0
    from grpo_mmpc.pipelines.train import run_training

    return run_training(arguments.recipe, overwrite=arguments.overwrite)
