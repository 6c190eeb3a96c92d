"""Command-line options that several commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path

from grpo_mmpc.utils.faults import explain_os_error, try_file, try_folder


def positive_int(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return int(text)


def non_negative_int(text: str) -> int:
    """Read a whole number from 0 on."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text}")
    return int(text)


def output_folder(text: str) -> Path:
    """Read the path of a folder to write; one that cannot be written is refused before any work."""
    return _output(text, try_folder)


def output_file(text: str) -> Path:
    """Read the path of a file to write; one that cannot be written is refused before any work."""
    return _output(text, try_file)


def _output(text: str, try_it: Callable[[Path], None]) -> Path:
    try:
        try_it(Path(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(explain_os_error(error)) from error
    return Path(text)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the positional ``recipe``: YAML files and ``key=value`` overrides."""
    parser.add_argument("recipe", nargs="+", metavar="RECIPE|KEY=VALUE", help="YAML files, then overrides")


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Add the choice between ``--checkpoint DIR`` and ``--base``; one of them is required."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", type=Path, metavar="DIR", help="folder with an adapter, or a whole model")
    which.add_argument("--base", action="store_true", help="the base model without adapter")
