"""``grpo-mmpc serve``: the vLLM server that a recipe's rollouts come from, on this machine."""

import argparse
from typing import Any

from grpo_mmpc.utils.options import add_recipe


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "serve",
        help="run the vLLM server of a recipe (rollout.mode=server)",
        description=(
            "Serve the recipe's base model with everything that trainer and server must agree on (precision, image "
            "size, log-probabilities, adapter rank). The trainer sends adapters over HTTP; no file system is shared."
        ),
        epilog="example: grpo-mmpc serve recipes/qwen2_5_vl_7b.yaml --host 0.0.0.0 --port 8000",
    )
    add_recipe(parser)
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (%(default)s)")
    parser.add_argument("--print", action="store_true", help="print the shell command instead of running it")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve, or print how to."""
    from grpo_mmpc.pipelines.recipe import load_recipe

    config = load_recipe(arguments.recipe)
    # heavy: imported on use
    from grpo_mmpc.rollout.vllm.serve import run_server, shell_command

    if arguments.print:
        print(shell_command(config, host=arguments.host, port=arguments.port))
        return 0
    return run_server(config, host=arguments.host, port=arguments.port)
