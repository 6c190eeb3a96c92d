"""The command ``grpo-mmpc recbench``: does a completed catalogue help recommendation?"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.nano.catalogue import NANO_CATALOGUE
from grpo_mmpc.utils.options import output_folder, positive_int

if TYPE_CHECKING:
    from grpo_mmpc.recbench.benchmark import RunCells
    from grpo_mmpc.recbench.settings import RecBenchSection, RecommenderTrainingSection


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
        default=NANO_CATALOGUE,
        help=f"catalogue folder with true titles and images and interactions (default: {NANO_CATALOGUE})",
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
    from grpo_mmpc.config import load_as, split_words
    from grpo_mmpc.errors import ConfigError
    from grpo_mmpc.recbench.folder import only_one
    from grpo_mmpc.recbench.settings import RecBenchSection

    print("checking settings, encoders and catalogue ...", file=sys.stderr, flush=True)
    files, overrides = split_words(arguments.recipe)
    settings = load_as(RecBenchSection, files, overrides)
    named, problems = _named(arguments.completed)
    problems += [*_without_effect(arguments, settings), *_cannot_run(arguments, settings, named)]
    if problems:
        raise ConfigError(problems)
    with only_one(arguments.out):
        return _run(arguments, settings, named)


def _run(arguments: argparse.Namespace, settings: "RecBenchSection", named: dict[str, Path]) -> int:
    # heavy: imported on use
    from grpo_mmpc.catalogue import load_catalogue
    from grpo_mmpc.completion.predictions import words_of_a_policy
    from grpo_mmpc.nano.catalogue import catalogue_folder
    from grpo_mmpc.recbench.benchmark import run_benchmark
    from grpo_mmpc.recbench.completed_catalogue import completions_of_catalogues
    from grpo_mmpc.recbench.data import read_benchmark_data
    from grpo_mmpc.recbench.report.page import write_page
    from grpo_mmpc.recbench.report.terminal import terminal_lines
    from grpo_mmpc.utils.console import Progress, columns, next_command, printer
    from grpo_mmpc.utils.manifest import command_line, environment

    say = printer(True)
    say(f"recommendation benchmark on {arguments.catalogue}, writing to {arguments.out}")
    catalogue = load_catalogue(catalogue_folder(arguments.catalogue), check_images=True)
    if warning := words_of_a_policy(catalogue.folder):
        say(warning)
    with Progress() as progress:
        results = run_benchmark(
            settings,
            catalogue,
            read_benchmark_data(settings, catalogue, say=say),
            complete=partial(completions_of_catalogues, settings, named, say=say, progress=progress),
            run_cells=_engine(arguments, settings.training),
            work=arguments.out,
            out=arguments.out,
            about={
                "command": command_line(),
                "catalogue": arguments.catalogue,
                "completed": {name: str(path) for name, path in named.items()},
                **environment(),
            },
            say=say,
            progress=progress,
        )
    print("\n".join(terminal_lines(results, colour=sys.stdout.isatty(), width=columns())))
    page = write_page(results, arguments.out / "report.html")
    print(f"\nwritten to {arguments.out}: results.json, results.csv\nreport: {page.resolve()}")
    if not named and "completed" in settings.fills:
        say("to measure a policy too: take titles away, let it complete them, and give the result as --completed DIR")
        say(next_command("data", "mask", arguments.catalogue, "--out", "MASKED"))
    return 1 if results["failures"] else 0


def _without_effect(arguments: argparse.Namespace, settings: "RecBenchSection") -> Iterator[str]:
    """Name options that would change nothing."""
    if arguments.engine == "local" and (arguments.gpus_per_cell or arguments.ray_address):
        yield "--gpus-per-cell and --ray-address are for --engine ray; here training.device=cuda takes the GPUs"
    if arguments.engine == "ray" and settings.training.device is not None:
        yield (
            f"training.device is {settings.training.device}, but on Ray --gpus-per-cell decides between cores and GPUs"
        )
    if arguments.completed and not settings.encoded:
        yield f"--completed has no effect, for no recommender of [{', '.join(settings.recommenders)}] gets features"
    if arguments.completed and "completed" not in settings.fills:
        yield f"--completed has no effect, for fills is [{', '.join(settings.fills)}]: add completed to it"
    if arguments.completed and {*settings.missing} == {"both"}:
        yield (
            "--completed has no effect, for items that lose title and image at once (missing: both) cannot be "
            "completed: add text or image to missing"
        )


def _cannot_run(arguments: argparse.Namespace, settings: "RecBenchSection", named: Mapping[str, Path]) -> Iterator[str]:
    """Name what would fail later: data, devices, encoders, recommenders without a comparison."""
    # heavy: imported on use
    from grpo_mmpc.catalogue.interactions import interactions_problem
    from grpo_mmpc.encoders.loading import pick_device
    from grpo_mmpc.errors import ScoringError
    from grpo_mmpc.recbench.features import encoder_problems
    from grpo_mmpc.recbench.plan import problems
    from grpo_mmpc.utils.console import quiet_when_redirected
    from grpo_mmpc.utils.cpu_compat import ensure_importable

    ensure_importable()
    quiet_when_redirected()
    yield from problems(settings, completed=[*named])
    if not arguments.catalogue.startswith("nano:"):
        catalogue = Path(arguments.catalogue)
        problem = interactions_problem(catalogue) if catalogue.is_dir() else f"{catalogue} is not a folder"
        yield from [f"--catalogue: {problem}"] if problem else []
    if arguments.gpus_per_cell < 0:
        yield f"--gpus-per-cell is {arguments.gpus_per_cell:g}, expected a share of a GPU, or a number of them"
    if settings.training.device is not None and arguments.engine == "local":
        try:
            pick_device(settings.training.device)
        except ScoringError as error:
            yield f"training.device: {error}"
    yield from encoder_problems(settings)


def _engine(arguments: argparse.Namespace, training: "RecommenderTrainingSection") -> "RunCells":
    from grpo_mmpc.recbench.engines import run_local, run_ray

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


def _named(words: list[str]) -> tuple[dict[str, Path], list[str]]:
    """Return completed catalogues by name, and what is wrong with the words that name them."""
    named: dict[str, Path] = {}
    problems = []
    for word in words:
        name, separator, path = word.partition("=")
        if not separator or Path(word).is_dir():
            name, path = Path(word).resolve().name, word
        if not Path(path).is_dir():
            problems.append(f"--completed {word}: {path or 'nothing'} is not a folder")
        elif not name.strip().isprintable() or not name.strip():
            problems.append(f"--completed {word}: the name in front of = is {name!r}, expected letters or numbers")
        elif name in named:
            problems.append(f"--completed: two catalogues are called {name}; name them: --completed NAME=DIR")
        named[name] = Path(path)
    return named, problems
