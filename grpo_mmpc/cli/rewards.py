"""``grpo-mmpc rewards list``: which rewards are installed."""

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser("rewards", help="list the installed rewards")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="names, factories, and what each one is")
    listing.set_defaults(func=run_list)


def run_list(arguments: argparse.Namespace) -> int:
    """Print one line per registered reward."""
    import inspect

    from grpo_mmpc.reward_mix import load_factory, registered_rewards

    registered = registered_rewards()
    width = max((len(name) for name in registered), default=0)
    for name in sorted(registered):
        factory = load_factory(name)
        summary = (inspect.getdoc(factory) or "").partition("\n")[0]
        print(f"{name:<{width}}  {summary}")
        print(f"{'':<{width}}  {name}{inspect.signature(factory)}".split(" -> ")[0])
    print("\nYour own: {name: path/to/file.py:factory, weight: 0.5} in a recipe's rewards.mix")
    return 0
