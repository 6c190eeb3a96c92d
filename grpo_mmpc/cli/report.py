"""``grpo-mmpc report``: a run as one HTML page, and as CSV and LaTeX tables."""

import argparse
from pathlib import Path
from typing import Any

from grpo_mmpc.utils.console import reading
from grpo_mmpc.utils.options import output_file, output_folder


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "report",
        help="write the HTML report of a run",
        description=(
            "One self-contained page: what changed and how sure that is, learning curves, categories, items to look "
            "at, configuration; and beside it a summary of one page to print, for readers who know no statistics. "
            "Works on interrupted runs too; the page then says what is missing. Of a completed catalogue: the page of "
            "what was filled."
        ),
        epilog="example: grpo-mmpc report runs/nano --tables runs/nano/tables",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or a completed catalogue")
    parser.add_argument(
        "--out", type=output_file, metavar="FILE", help="where to write the page (default: RUN/report.html)"
    )
    parser.add_argument(
        "--catalogue", type=Path, metavar="DIR", help="where the run's catalogue lies now, if its images are not found"
    )
    parser.add_argument(
        "--tables", type=output_folder, metavar="DIR", help="also write results.csv and results.tex there"
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Bring the comparison up to date, then write page and tables."""
    reading(arguments.run)
    # heavy: imported on use
    from grpo_mmpc.completion.predictions import is_completed
    from grpo_mmpc.errors import ConfigError
    from grpo_mmpc.evaluation.comparison import update_comparison
    from grpo_mmpc.reports.catalogue.completion_page import report_completion
    from grpo_mmpc.reports.run.export import write_tables
    from grpo_mmpc.reports.run.page import build_report, summary_path
    from grpo_mmpc.reports.watch.live_run import ABLATION_FILE

    if is_completed(arguments.run):
        if arguments.out or arguments.tables or arguments.catalogue:
            raise ConfigError(
                ["--out, --tables and --catalogue are of a run's page; that of a completed catalogue is in its folder"]
            )
        print(f"report: {report_completion(arguments.run).resolve()}")
        return 0
    if (arguments.run / ABLATION_FILE).is_file():
        raise ConfigError(
            [
                f"{arguments.run} is an ablation's folder; its page is written by grpo-mmpc ablate ABLATION.yaml "
                "--report-only, and those of its runs by grpo-mmpc report FOLDER/VARIANT/SEED"
            ]
        )
    if (arguments.run / "results.json").is_file() and (page := arguments.run / "report.html").is_file():
        raise ConfigError([f"{arguments.run} is a benchmark's folder; its page is there: {page.resolve()}"])
    comparison = update_comparison(arguments.run)
    if comparison is not None:
        print(f"comparison: {comparison}")
    if arguments.catalogue is not None and not any(arguments.catalogue.glob("items.*")):
        raise ConfigError([f"--catalogue {arguments.catalogue} is no catalogue folder: it holds no items file"])
    page = build_report(arguments.run, out=arguments.out, catalogue=arguments.catalogue).resolve()
    print(f"report: {page}\nsummary to print: {summary_path(page)}")
    if arguments.tables is not None:
        for path in write_tables(arguments.run, folder=arguments.tables):
            print(f"table: {path}")
    return 0
