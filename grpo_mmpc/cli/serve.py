"""``grpo-mmpc serve``: a recipe's vLLM server, completion for a shop, or a renderer."""

import argparse
from pathlib import Path
from typing import Any

from grpo_mmpc.utils.options import positive_int


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "serve",
        help="run the vLLM server of a recipe (rollout.mode=server), answer photographs with titles, or render",
        description=(
            "Serve the recipe's base model with everything that trainer and server must agree on (precision, image "
            "size, log-probabilities, adapter rank). The trainer sends adapters over HTTP; no file system is shared.\n"
            "With --complete: answer photographs and incomplete items over HTTP as the command complete would, each "
            "with the gate's confidence and status.\n"
            "With --images: render prompts for the renderer images_api of trainings, evaluations and completions."
        ),
        epilog="example: grpo-mmpc serve recipes/qwen2_5_vl_7b.yaml --host 0.0.0.0 --port 8000\n"
        "or:      grpo-mmpc serve --complete --checkpoint runs/nano/checkpoints/checkpoint-80\n"
        "or:      grpo-mmpc serve --images diffusers batch_size=8 --port 9000",
    )
    parser.add_argument(
        "recipe",
        nargs="*",
        metavar="RECIPE|KEY=VALUE",
        help="YAML files, then overrides; none with --complete takes those of the checkpoint's run; with --images a "
        "renderer's name, then its arguments",
    )
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (%(default)s)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="print the shell command instead of running it")
    what.add_argument("--complete", action="store_true", help="answer photographs and incomplete items")
    what.add_argument("--images", action="store_true", help="answer prompts with images (/v1/images/generations)")
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
    from grpo_mmpc.config.loading import merge_layers
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
        missing = "a renderer, such as diffusers" if arguments.images else "whose base model to serve"
        raise ConfigError([f"RECIPE is missing: {missing}"])
    if arguments.images:
        reference, *overrides = arguments.recipe
        layers = merge_layers([], overrides)
        if layers.problems:
            raise ConfigError(layers.problems)
        # heavy: imported on use
        from grpo_mmpc.pipelines.serve_images import serve_images

        serve_images(reference, layers.merged, host=arguments.host, port=arguments.port)
    config = load_recipe(arguments.recipe, trains=False)
    # heavy: imported on use
    from grpo_mmpc.rollout.vllm.serve import run_server, shell_command

    if arguments.print:
        print(shell_command(config, host=arguments.host, port=arguments.port))
        return 0
    return run_server(config, host=arguments.host, port=arguments.port)
