"""The command ``grpo-mmpc recbench``: does a completed catalogue help recommendation?"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.utils.options import output_folder, positive_int

if TYPE_CHECKING:
    from grpo_mmpc.recbench.benchmark import RunCells
    from grpo_mmpc.recbench.settings import RecommenderTrainingSection

_NANO = "nano:catalogue"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``recbench``; it sets ``func`` to a function(args) -> exit code."""
    parser = subparsers.add_parser(
        "recbench",
        help="measure what a completed catalogue is worth to recommenders",
        description="Take titles or images away, put completions or simple fills in their place, train recommenders on "
        "each, and compare how well they rank.",
        epilog="To complete a catalogue for it: grpo-mmpc data mask CATALOGUE --out MASKED, then grpo-mmpc complete "
        "MASKED --out COMPLETED, or any other program that fills the titles (images) of MASKED.",
    )
    parser.add_argument(
        "recipe",
        metavar="SETTINGS",
        nargs="*",
        help="YAML files of recipes/recbench and overrides such as rates=[0.5,1.0]; none is the light setting",
    )
    parser.add_argument(
        "--catalogue",
        metavar="DIR",
        default=_NANO,
        help=f"catalogue folder with true titles and images and interactions (default: {_NANO})",
    )
    parser.add_argument(
        "--completed",
        metavar="[NAME=]DIR",
        action="append",
        default=[],
        help="completed catalogue folder to measure; may be given several times",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=output_folder,
        default=Path("runs/recbench"),
        help="folder to write (default: runs/recbench)",
    )
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="where recommenders are trained")
    parser.add_argument(
        "--parallel", metavar="N", type=positive_int, help="at most so many at once (default: all cores or GPUs)"
    )
    parser.add_argument("--ray-address", metavar="ADDRESS", help="of a running Ray cluster; default starts one here")
    parser.add_argument("--gpus-per-cell", metavar="G", type=float, default=0.0, help="Ray: share of a GPU for each")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Run, print the findings, write results and page."""
    # heavy: imported on use
    from grpo_mmpc.catalogue import load_catalogue
    from grpo_mmpc.config import is_file, load_as
    from grpo_mmpc.nano.catalogue import catalogue_folder
    from grpo_mmpc.recbench.benchmark import run_benchmark
    from grpo_mmpc.recbench.completed_catalogue import completions_of_catalogues
    from grpo_mmpc.recbench.data import read_benchmark_data
    from grpo_mmpc.recbench.report.page import write_page
    from grpo_mmpc.recbench.report.terminal import terminal_lines
    from grpo_mmpc.recbench.settings import RecBenchSection
    from grpo_mmpc.utils.console import Progress, printer, quiet_when_redirected
    from grpo_mmpc.utils.cpu_compat import ensure_importable
    from grpo_mmpc.utils.manifest import command_line, environment

    files = [word for word in arguments.recipe if is_file(word)]
    settings = load_as(RecBenchSection, files, [word for word in arguments.recipe if not is_file(word)])
    named, engine = _named(arguments.completed), _engine(arguments, settings.training)
    ensure_importable()
    quiet_when_redirected()
    folder = catalogue_folder(arguments.catalogue)
    say = printer(True)
    say(f"recommendation benchmark on {arguments.catalogue}, writing to {arguments.out}")
    catalogue = load_catalogue(folder, check_images=True)
    results = run_benchmark(
        settings,
        catalogue,
        read_benchmark_data(settings, catalogue, say=say),
        complete=partial(completions_of_catalogues, settings, named, say=say, progress=Progress()),
        run_cells=engine,
        work=arguments.out,
        out=arguments.out,
        about={
            "command": command_line(),
            "catalogue": arguments.catalogue,
            "completed": {name: str(path) for name, path in named.items()},
            **environment(),
        },
        say=say,
        progress=Progress(),
    )
    print("\n".join(terminal_lines(results, colour=sys.stdout.isatty())))
    page = write_page(results, arguments.out / "report.html")
    print(f"\nwritten to {arguments.out}: results.json, results.csv\nreport: {page.resolve()}")
    if not named and "completed" in settings.fills:
        print("next: measure a completed catalogue beside these fills with --completed DIR (grpo-mmpc recbench --help)")
    return 1 if results["failures"] else 0


def _engine(arguments: argparse.Namespace, training: "RecommenderTrainingSection") -> "RunCells":
    from grpo_mmpc.errors import ConfigError
    from grpo_mmpc.recbench.engines import run_local, run_ray

    problems = []
    if arguments.engine == "local" and (arguments.gpus_per_cell or arguments.ray_address):
        problems.append(
            "--gpus-per-cell and --ray-address are for --engine ray; here training.device=cuda takes the GPUs"
        )
    if arguments.engine == "ray" and training.device is not None:
        problems.append(
            f"training.device is {training.device}, but on Ray --gpus-per-cell decides between cores and GPUs"
        )
    if problems:
        raise ConfigError(problems)
    parallel = arguments.parallel or training.parallel
    if arguments.engine == "local":
        return lambda folder, cells, show: run_local(
            folder, cells, parallel=parallel, device=training.device, show=show
        )
    return lambda folder, cells, show: run_ray(
        folder,
        cells,
        address=arguments.ray_address,
        parallel=parallel,
        gpus_per_cell=arguments.gpus_per_cell,
        show=show,
    )


def _named(words: list[str]) -> dict[str, Path]:
    from grpo_mmpc.errors import ConfigError

    named: dict[str, Path] = {}
    for word in words:
        name, separator, path = word.partition("=")
        folder = Path(path if separator and not Path(word).is_dir() else word)
        name = name if separator and not Path(word).is_dir() else folder.resolve().name
        if not folder.is_dir():
            raise ConfigError([f"--completed {word}: {folder} is not a folder"])
        if name in named:
            raise ConfigError([f"--completed: two catalogues are called {name}; name them: --completed NAME=DIR"])
        named[name] = folder
    return named
