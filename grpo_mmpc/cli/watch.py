"""``grpo-mmpc watch``: a live view of runs, in the terminal or as a local page."""

import argparse
from pathlib import Path
from typing import Any

from grpo_mmpc.utils.console import reading


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "watch",
        help="look at runs while they train",
        description=(
            "Show how far a run is, its rewards with their spread, alarms, the newest evaluation beside the base "
            "model and the newest completions; of several runs, or of an ablation, a line each. Reads the files of "
            "the run and nothing else: it also shows runs of other machines on a shared disk, killed and finished "
            "ones, and the run does not notice. Ends with q or Ctrl-C."
        ),
        epilog="example: grpo-mmpc watch runs/nano\nor:      grpo-mmpc watch runs/nano --serve",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder, or that of an ablation")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="print what there is to see now, and end")
    how.add_argument("--serve", action="store_true", help="serve a page that refreshes itself, with curves and images")
    parser.add_argument("--host", help="with --serve: interface to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, metavar="N", help="with --serve: port to listen on (default: a free one)")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Show runs; the reader ends it, so that an interruption is no failure."""
    from grpo_mmpc.errors import ConfigError

    served = {"--host": arguments.host, "--port": arguments.port}
    if not arguments.serve and (given := [name for name, value in served.items() if value is not None]):
        raise ConfigError([f"{name} needs --serve" for name in given])
    reading(*arguments.runs)
    try:
        # heavy: imported on use
        from grpo_mmpc.reports.watch.show import print_once, serve, watch

        if arguments.once:
            print_once(arguments.runs)
        elif arguments.serve:
            serve(arguments.runs, host=arguments.host or "127.0.0.1", port=arguments.port or 0)
        else:
            watch(arguments.runs)
    except KeyboardInterrupt:
        print()
    return 0
