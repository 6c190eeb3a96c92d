"""``grpo-mmpc review``: accept, edit or reject what a completion has proposed.

A command of its own and not ``complete review``: that would be the completion of a catalogue called
"review".
"""

import argparse
import getpass
from pathlib import Path
from typing import Any

from grpo_mmpc.utils.options import output_file, output_folder


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "review",
        help="accept, edit or reject what complete has proposed",
        description=(
            "Serve a page on this machine that shows every proposal of a completed catalogue with its image, known "
            "facts and nearest existing title. Decisions go to decisions.jsonl beside them. --html writes the page as "
            "a file to mail, --apply the catalogue with what was decided."
        ),
        epilog="example: grpo-mmpc review completed\nthen:    grpo-mmpc review completed --apply reviewed",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder that grpo-mmpc complete has written")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--html", type=output_file, metavar="FILE", help="write the page as one file, to mail")
    what.add_argument(
        "--apply", type=output_folder, metavar="OUT", help="write the catalogue with what was decided; DIR stays"
    )
    parser.add_argument("--port", type=int, metavar="N", help="port of the page on 127.0.0.1 (default: a free one)")
    parser.add_argument("--by", metavar="NAME", help="the reviewer's name (default: the user of this process)")
    parser.add_argument(
        "--decisions", type=Path, nargs="+", metavar="FILE", help="with --apply: also what mailed pages gave back"
    )
    parser.add_argument(
        "--undecided",
        choices=("missing", "keep"),
        help="with --apply: values that wait for review and were not decided (default: missing)",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve, write a page, or apply."""
    from grpo_mmpc.errors import ConfigError

    needs = {"--decisions": arguments.decisions, "--undecided": arguments.undecided}
    if arguments.apply is None and (given := [name for name, value in needs.items() if value is not None]):
        raise ConfigError([f"{name} needs --apply OUT" for name in given])
    served = {"--port": arguments.port, "--by": arguments.by}
    if (arguments.apply or arguments.html) and (given := [name for name, value in served.items() if value is not None]):
        raise ConfigError([f"{name} is of the served page; leave --apply and --html out" for name in given])
    # heavy: imported on use
    from grpo_mmpc.pipelines.review import apply_review, mail_review, serve_review

    if arguments.apply is not None:
        apply_review(
            arguments.folder,
            arguments.apply,
            files=arguments.decisions or [],
            undecided=arguments.undecided or "missing",
        )
    elif arguments.html is not None:
        mail_review(arguments.folder, arguments.html)
    else:
        serve_review(arguments.folder, by=arguments.by or getpass.getuser(), port=arguments.port or 0)
    return 0
