"""Command-line options that several commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path

from grpo_mmpc.errors import ConfigError
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


def output_path(text: str) -> Path:
    """Read the path of a file to write, or of a folder for several; refused as the others are."""
    return _output(text, try_folder if Path(text).is_dir() else try_file)


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
    which.add_argument(
        "--base", action="store_true", help="the policy before training: the base model, or model.init_from"
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers N``."""
    parser.add_argument(
        "--workers", type=positive_int, metavar="N", help="engines at once (default: one a device, one on a CPU)"
    )


def add_engine(parser: argparse.ArgumentParser, *, runs: str) -> None:
    """Add ``--engine`` and ``--ray-address``, which ``check_engine`` checks; ``runs`` run there."""
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help=f"where {runs} run (%(default)s)")
    parser.add_argument(
        "--ray-address", metavar="ADDRESS", help="of a running cluster; default: start one on this machine"
    )


def check_engine(arguments: argparse.Namespace) -> None:
    """Refuse a cluster that nobody would use.

    Raises:
        ConfigError: ``--ray-address`` without ``--engine ray``.
    """
    if arguments.ray_address is not None and arguments.engine != "ray":
        raise ConfigError(["--ray-address needs --engine ray"])


def add_catalogue_out(parser: argparse.ArgumentParser) -> None:
    """Add the required ``--out DIR`` of a command that builds a catalogue."""
    parser.add_argument("--out", metavar="DIR", type=output_folder, required=True, help="catalogue folder to write")


def add_allowed_hosts(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-host HOST``, which may be given several times."""
    parser.add_argument(
        "--allow-host", metavar="HOST", action="append", default=[], help="an image server in your own network"
    )
