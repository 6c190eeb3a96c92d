"""``grpo-mmpc report``: a run as one HTML page, and as CSV and LaTeX tables."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "report",
        help="write the HTML report of a run",
        description=(
            "One self-contained page: what changed and how sure that is, learning curves, categories, items to look "
            "at, configuration. Works on interrupted runs too; the page then says what is missing."
        ),
        epilog="example: grpo-mmpc report runs/nano --tables runs/nano/tables",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the page (default: RUN/report.html)")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="also write results.csv and results.tex there")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Bring the comparison up to date, then write page and tables."""
    # heavy: imported on use
    from grpo_mmpc.reports.run import build_report, write_tables

    comparison = _update_comparison(arguments.run)
    if comparison is not None:
        print(f"comparison: {comparison}")
    print(f"report: {build_report(arguments.run, out=arguments.out).resolve()}")
    if arguments.tables is not None:
        for path in write_tables(arguments.run, folder=arguments.tables):
            print(f"table: {path}")
    return 0


def _update_comparison(run_dir: Path) -> Path | None:
    """Compare base with the reported checkpoint and its controls, unless ``comparison.json`` is newer than all of them.

    An interrupted run has evaluations but no comparison yet, or one that was made before it was
    resumed.
    """
    from grpo_mmpc.evaluation.comparison import reported_checkpoint, write_comparison
    from grpo_mmpc.reports.run.run_files import read_run, section

    files = read_run(run_dir)
    reported = reported_checkpoint(run_dir, suite=files.suite)
    if reported in (None, "base") or "base" not in files.summaries:
        return None
    written = [path.stat().st_mtime_ns for path in (run_dir / "evaluations").glob(f"*/{files.suite}/summary.json")]
    is_newer = files.comparison is not None and (run_dir / "comparison.json").stat().st_mtime_ns >= max(written)
    if files.comparison is not None and files.comparison.after == reported and is_newer:
        return None
    resamples = section(files.config, "evaluation").get("resamples")
    count = resamples if isinstance(resamples, int) else 10_000
    return write_comparison(run_dir, after=reported, suite=files.suite, resamples=count)
