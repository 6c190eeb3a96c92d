"""``grpo-mmpc sft``: fine-tune on the catalogue's own answers, measured as ``train`` does."""

import argparse
from typing import Any

from grpo_mmpc.cli import train


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "sft",
        help="fine-tune a policy on the catalogue's own answers and measure it before and after",
        description=(
            "Run a recipe by supervised fine-tuning instead of GRPO: the same items, prompts, adapter and evaluations. "
            "What only GRPO knows is named and left out."
        ),
        epilog=(
            "example: grpo-mmpc sft recipes/nano.yaml run_dir=runs/nano_sft trainer.max_steps=20\n"
            "then: grpo-mmpc train recipes/nano.yaml model.init_from=runs/nano_sft/checkpoints/checkpoint-20"
        ),
    )
    train.add_options(parser)
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the recipe as ``train`` does, with ``method=sft``."""
    arguments.recipe = [*arguments.recipe, "method=sft"]
    return train.run(arguments)
