"""Command line: one thin module per command, nothing heavy imported before a command runs."""

import argparse
import io
import logging
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from grpo_mmpc import __version__
from grpo_mmpc.errors import GrpoMmpcError
from grpo_mmpc.utils.console import LogHandler, fitted, quiet_libraries, wrapped
from grpo_mmpc.utils.distributed import is_first_here, num_processes
from grpo_mmpc.utils.faults import WRONG_PLACE, explain_os_error, full_disk
from grpo_mmpc.utils.manifest import command_line
from grpo_mmpc.utils.processes import ignore_the_next_signal, stopped_by_signals

BAD_INPUT, INTERRUPTED = 2, 130
"""Exit statuses beside 0 and 1; docs/reliability.md explains them."""
_FIRST_SPEAKS_S = 10.0
"""Longer than the first process takes to end, and its launcher to end the others."""
_EXAMPLE = re.compile(r"(?:^|: +)(?:grpo-mmpc|accelerate) ")


class _Help(argparse.HelpFormatter):
    """Fill paragraphs one by one: each example on a line of its own, its command in one piece."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            wrapped(line, width) if _EXAMPLE.search(line) else super(_Help, self)._fill_text(line, width, indent)
            for line in text.splitlines()
        )


class _Parser(argparse.ArgumentParser):
    """The parser of the program and, since argparse makes them of its class, of every command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help} | options)

    def error(self, message: str) -> NoReturn:
        """Print usage and message, as wide as the terminal, and end the process."""
        self.print_usage(sys.stderr)
        self.exit(BAD_INPUT, fitted(f"{self.prog}: error: {message}\n", sys.stderr))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        from grpo_mmpc.config import nearest  # heavy: imported on use

        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} is unknown; {nearest(str(value), list(action.choices))}")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    from grpo_mmpc import recbench
    from grpo_mmpc.cli import (
        ablate,
        compare,
        complete,
        data,
        doctor,
        evaluate,
        export,
        plan,
        report,
        rescore,
        review,
        rewards,
        score,
        serve,
        sft,
        train,
        watch,
    )

    parser = _Parser(
        prog="grpo-mmpc",
        description="Align multimodal LLMs with GRPO so that they complete product catalogues, and measure it.",
        epilog="Start with: grpo-mmpc train recipes/nano.yaml   (offline, two CPU cores, about six minutes)",
    )
    parser.add_argument("--version", action="version", version=f"grpo-mmpc {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (
        doctor,
        plan,
        train,
        sft,
        evaluate,
        compare,
        score,
        watch,
        report,
        export,
        ablate,
        complete,
        review,
        recbench,
        rewards,
        rescore,
        data,
        serve,
    ):
        module.add_parser(commands)
    return parser


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse arguments; overrides may also follow options: ``evaluate R --base seed=1``."""
    parser = build_parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help()
        parser.exit(BAD_INPUT)
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        if not hasattr(arguments, "recipe") or any(word.startswith("-") for word in rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        arguments.recipe += rest
    return arguments


def program() -> NoReturn:
    """Run one command and end this process; a signal after its last line changes no exit status."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by >&-; the next file to be opened would take its place
            nowhere = Path(os.devnull).open("r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115  (kept)
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot spell a letter gets its number
            stream.reconfigure(errors="backslashreplace")
    status = main()
    ignore_the_next_signal()
    raise SystemExit(status)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status.

    Errors raised on purpose are printed without a traceback.
    """
    arguments = parse_arguments(argv)
    quiet_libraries()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[LogHandler()])
    try:
        trains = arguments.command in ("train", "sft") or getattr(arguments, "worst_step", False)
        if num_processes() > 1 and not trains:
            raise GrpoMmpcError(
                f"{arguments.command} is one process for all devices, and {num_processes()} were launched: start it "
                "without accelerate launch or torchrun"
            )
        with stopped_by_signals():
            return int(arguments.func(arguments))
    except GrpoMmpcError as error:
        return _refused(str(error))
    except KeyboardInterrupt as stop:
        print(f"\nstopped by {stop or 'SIGINT'}; go on with: {_same_command(arguments)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away; point stdout at nothing so that the interpreter's last
        # flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not isinstance(error, OSError) and not full_disk(error):
            raise
        reason = (
            explain_os_error(error) if isinstance(error, OSError) else f"the disk is full; free some space ({error})"
        )
        is_elsewhere = isinstance(error, OSError) and error.errno in WRONG_PLACE
        following = "" if is_elsewhere else f"\nthen go on with: {_same_command(arguments)}"
        return _refused(f"{reason}{following}")


def _refused(message: str) -> int:
    """Say why a command ends; what all processes of a launch would say is said once a machine.

    The launcher ends the others as soon as the first has ended; one that fails alone speaks later.
    """
    if not is_first_here():
        with suppress(KeyboardInterrupt):  # Ctrl-C: speak now
            time.sleep(_FIRST_SPEAKS_S)
    print(fitted(f"error: {message}", sys.stderr), file=sys.stderr)
    return BAD_INPUT


def _same_command(arguments: argparse.Namespace) -> str:
    """Return the command that goes on where this one stopped."""
    return command_line(resume=hasattr(arguments, "resume"))
