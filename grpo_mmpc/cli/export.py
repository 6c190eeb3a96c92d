"""``grpo-mmpc export``: a run's policy as a folder that PEFT, Transformers and vLLM take."""

import argparse
from pathlib import Path
from typing import Any

from grpo_mmpc.utils.console import next_command, reading
from grpo_mmpc.utils.options import output_folder

_HUB = "hub:"


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "export",
        help="write a run's adapter or merged model with its model card, to use without grpo-mmpc",
        description=(
            "The adapter of the checkpoint that the run is judged by (the best one where evaluation.best chose, else "
            "the last), or with --merged a whole model with the adapter in its weights; beside it processor, recipe, "
            "and a model card: what changed on held-out items with intervals, prompts, how to load it with PEFT and "
            "to serve it with vLLM. Nothing is uploaded unless --to names a repository."
        ),
        epilog="example: grpo-mmpc export runs/nano --merged --to exports/titles",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "recipe", nargs="*", metavar="KEY=VALUE", help="changes to the run's model section, model.name_or_path=DIR"
    )
    parser.add_argument("--checkpoint", metavar="NAME", help="checkpoint-N (default: the one the run is judged by)")
    parser.add_argument("--merged", action="store_true", help="write a whole model, the adapter in its weights")
    parser.add_argument(
        "--to",
        type=_place,
        metavar="DIR|hub:OWNER/NAME",
        help="folder to write (default: RUN/exports/NAME), or repository to push to",
    )
    parser.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    parser.set_defaults(func=run)


def _place(text: str) -> str | Path:
    return text.removeprefix(_HUB) if text.startswith(_HUB) else output_folder(text)


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and push it where asked."""
    reading(arguments.run)
    # heavy: imported on use
    from grpo_mmpc.pipelines.export import export_policy, push

    repository = arguments.to if isinstance(arguments.to, str) else None
    folder = export_policy(
        arguments.run,
        checkpoint=arguments.checkpoint,
        merged=arguments.merged,
        out=None if repository else arguments.to,
        repository=repository,
        words=arguments.recipe,
    )
    if repository:
        print(f"pushed to {push(folder, repository=repository, public=arguments.public)}")
    else:
        print(next_command("export", arguments.run, *["--merged"] * arguments.merged, "--to", "hub:OWNER/NAME"))
    return 0
