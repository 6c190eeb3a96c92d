"""``grpo-mmpc serve``: the vLLM server of a recipe's rollouts, or completion for a shop."""

import argparse
from pathlib import Path
from typing import Any

from grpo_mmpc.utils.options import positive_int


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "serve",
        help="run the vLLM server of a recipe (rollout.mode=server), or answer photographs with titles",
        description=(
            "Serve the recipe's base model with everything that trainer and server must agree on (precision, image "
            "size, log-probabilities, adapter rank). The trainer sends adapters over HTTP; no file system is shared.\n"
            "With --complete: answer photographs and incomplete items over HTTP as the command complete would, each "
            "with the gate's confidence and status."
        ),
        epilog="example: grpo-mmpc serve recipes/qwen2_5_vl_7b.yaml --host 0.0.0.0 --port 8000\n"
        "or:      grpo-mmpc serve --complete --checkpoint runs/nano/checkpoints/checkpoint-45",
    )
    parser.add_argument(
        "recipe",
        nargs="*",
        metavar="RECIPE|KEY=VALUE",
        help="YAML files, then overrides; none with --complete takes those of the checkpoint's run",
    )
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (%(default)s)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="print the shell command instead of running it")
    what.add_argument("--complete", action="store_true", help="answer photographs and incomplete items")
    complete = parser.add_argument_group("with --complete")
    complete.add_argument("--checkpoint", type=Path, metavar="DIR", help="adapter to use (default: the base model)")
    complete.add_argument(
        "--samples",
        type=positive_int,
        default=0,
        metavar="K",
        help="also sample K titles at temperature 1: the share that agrees is the confidence (default: none)",
    )
    complete.add_argument(
        "--catalogue",
        type=Path,
        metavar="DIR",
        help="catalogue, or a completed one with its calibration: titles that are taken, values of attributes",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve, or print how to."""
    from grpo_mmpc.errors import ConfigError
    from grpo_mmpc.pipelines.recipe import load_policy_recipe, load_recipe

    if arguments.complete:
        config = load_policy_recipe(arguments.recipe, checkpoint=arguments.checkpoint)
        # heavy: imported on use
        from grpo_mmpc.pipelines.serve_completion import serve_completion

        serve_completion(
            config,
            checkpoint=arguments.checkpoint,
            known=arguments.catalogue,
            samples=arguments.samples,
            host=arguments.host,
            port=arguments.port,
        )
    only = {"--checkpoint": arguments.checkpoint, "--samples": arguments.samples, "--catalogue": arguments.catalogue}
    if given := [name for name, value in only.items() if value]:
        raise ConfigError([f"{name} needs --complete" for name in given])
    if not arguments.recipe:
        raise ConfigError(["RECIPE is missing: whose base model to serve"])
    config = load_recipe(arguments.recipe)
    # heavy: imported on use
    from grpo_mmpc.rollout.vllm.serve import run_server, shell_command

    if arguments.print:
        print(shell_command(config, host=arguments.host, port=arguments.port))
        return 0
    return run_server(config, host=arguments.host, port=arguments.port)
