"""``grpo-mmpc evaluate``: run the recipe's suite on the base model or on a checkpoint."""

import argparse
from pathlib import Path
from typing import Any

from grpo_mmpc.utils.options import add_policy, add_recipe, add_workers, output_folder


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "evaluate",
        help="run the evaluation suite on the base model or an adapter",
        description="Greedy evaluation of held-out items with the same items, prompts and scorers as the training "
        "hook.",
        epilog="example: grpo-mmpc evaluate recipes/nano.yaml --checkpoint runs/nano/checkpoints/checkpoint-80",
    )
    add_recipe(parser)
    add_policy(parser)
    parser.add_argument(
        "--out", type=output_folder, metavar="DIR", help="where to write (default: RUN_DIR/evaluations/NAME/SUITE)"
    )
    add_workers(parser)
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Load the recipe and evaluate."""
    from grpo_mmpc.models.adapter_folder import open_checkpoint
    from grpo_mmpc.pipelines.recipe import load_recipe

    if arguments.checkpoint is not None:
        open_checkpoint(arguments.checkpoint)  # before the checks of the recipe, which load PyTorch
    config = load_recipe(arguments.recipe, trains=False)
    from grpo_mmpc.pipelines.evaluate import run_evaluation

    run_evaluation(config, checkpoint=arguments.checkpoint, out=arguments.out, workers=arguments.workers)
    if arguments.out is not None and config.evaluation.recbench is not None:
        # `grpo-mmpc report` shows the benchmark of a run; a folder outside of one has no other
        # page.
        name = "base" if arguments.base else arguments.checkpoint.name
        _write_recommendation_page(arguments.out / "controls" / name / "recbench")
    return 0


def _write_recommendation_page(folder: Path) -> None:
    from grpo_mmpc.recbench import read_results, write_page

    if (folder / "results.json").is_file():  # a benchmark that cannot be run leaves none
        print(f"recommendation report: {write_page(read_results(folder), folder / 'report.html')}")
