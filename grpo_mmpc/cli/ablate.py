"""``grpo-mmpc ablate``: a grid of mixes and seeds, run, compared, put on one page."""

import argparse
import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.utils.console import Progress, next_command, printer
from grpo_mmpc.utils.options import add_engine, check_engine, non_negative_int, output_folder, positive_int

if TYPE_CHECKING:
    from grpo_mmpc.ablation.grid import PlannedRun
    from grpo_mmpc.ablation.jobs import Job
    from grpo_mmpc.ablation.spec import AblationSpec
    from grpo_mmpc.config import RunConfig

say = printer(True)


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "ablate",
        help="run a recipe under several mixes and seeds and compare them on one page",
        description=(
            "Checks every run first, runs those that are not finished, and compares what is there. Stopped or killed, "
            "the same command goes on where it was."
        ),
        epilog="example: grpo-mmpc ablate recipes/ablations/nano_reward_mixes.yaml   (two CPU cores, about 20 minutes)",
    )
    parser.add_argument(
        "recipe", nargs="+", metavar="ABLATION|KEY=VALUE", help="ablation file, then overrides of all runs"
    )
    parser.add_argument(
        "--out", type=output_folder, metavar="DIR", help="folder of the ablation (default: runs/ablations/NAME)"
    )
    add_engine(parser, runs="runs")
    parser.add_argument(
        "--parallel", type=positive_int, metavar="N", help="runs at once (default: as GPUs or cores allow)"
    )
    parser.add_argument("--gpus-per-run", type=non_negative_int, metavar="N", help="default: one where there are any")
    parser.add_argument(
        "--cpus-per-run", type=positive_int, metavar="N", help="threads of a run (default: its share of cores)"
    )
    parser.add_argument(
        "--retries",
        type=non_negative_int,
        default=1,
        metavar="N",
        help="further attempts of a run that fails (%(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="start runs again whose recipe has changed")
    parser.add_argument(
        "--run-anyway", action="store_true", help="run a grid that cannot show any difference, which is refused"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="only check every run, print the grid and what it can show")
    group.add_argument("--report-only", action="store_true", help="only compare what is there and write the page")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Check, run, compare; returns 0 if every run has finished, 130 if it was stopped, else 1."""
    # heavy: imported on use
    from grpo_mmpc.ablation.folder import check_recipes, only_one, share_base, write_recipes
    from grpo_mmpc.ablation.grid import expand
    from grpo_mmpc.ablation.jobs import jobs_of
    from grpo_mmpc.ablation.power import power_line, why_nothing_can_be_shown
    from grpo_mmpc.ablation.spec import combinations, load_ablation, to_yaml
    from grpo_mmpc.errors import ConfigError
    from grpo_mmpc.reports.watch.live_run import ABLATION_FILE
    from grpo_mmpc.utils.files import remove_partial, write_text

    check_engine(arguments)
    path = Path(arguments.recipe[0])
    spec = load_ablation(path)
    folder = arguments.out or Path("runs/ablations") / spec.name
    print(f"checking the recipes of {path} ...", file=sys.stderr, flush=True)
    total = len(spec.seeds) * len(combinations(spec))
    numbers = count(1)

    def load(recipe: Sequence[str]) -> "RunConfig":
        of = f"{next(numbers)} of {total}, with PyTorch"
        progress("checking recipes", 0, detail=of)
        return _load(recipe)

    with Progress() as progress:
        runs = expand(spec, arguments.recipe[1:], path=path, folder=folder, load=load)
    jobs = jobs_of(runs, folder=folder, launcher=spec.launcher)
    blind = why_nothing_can_be_shown(spec)
    if arguments.check:
        _print_grid(spec, runs, jobs)
        say(power_line(spec, runs))
    if blind and not (arguments.run_anyway or arguments.report_only):
        raise ConfigError([f"{path}: {blind}", "--run-anyway runs it all the same"])
    if arguments.check:
        print("ok", file=sys.stderr)
        return 0
    with only_one(folder):
        was_stopped = False
        if arguments.report_only:
            check_recipes(jobs)
        else:
            write_recipes(jobs, overwrite=arguments.overwrite)
            write_text(folder / ABLATION_FILE, to_yaml(spec))
            was_stopped = _run_jobs(jobs, arguments)
            share_base(jobs)
            if not was_stopped:  # no process writes there any more
                remove_partial(folder)
        return _report(spec, runs, jobs, was_stopped=was_stopped, folder=folder)


def _run_jobs(jobs: Sequence["Job"], arguments: argparse.Namespace) -> bool:
    """Run what is not finished; return whether that was stopped before it had ended."""
    # heavy: imported on use
    from grpo_mmpc.ablation.jobs import State, state_of

    states = {job.name: state_of(job) for job in jobs}
    to_do = [job for job in jobs if states[job.name] != State.FINISHED]
    continued = sum(states[job.name] in (State.PARTLY_TRAINED, State.TRAINED) for job in to_do)
    print(f"{len(jobs) - len(to_do)} of {len(jobs)} jobs are finished, {continued} will be continued", flush=True)
    if not to_do:
        return False
    for after in (False, True):
        done = {job.name for job in jobs if state_of(job) == State.FINISHED}
        wave = [job for job in to_do if (job.after in done if after else job.after is None)]
        if wave and _run_wave(wave, arguments, already=len(done)):
            return True
    return False


def _run_wave(jobs: Sequence["Job"], arguments: argparse.Namespace, *, already: int) -> bool:
    """Run jobs that wait for no other; return whether that was stopped before it had ended."""
    # heavy: imported on use
    from grpo_mmpc.ablation.runner import run_local, run_ray
    from grpo_mmpc.utils.jobs import shares_of_machine

    if arguments.engine == "ray":
        outcomes = run_ray(
            jobs,
            address=arguments.ray_address,
            parallel=arguments.parallel,
            gpus_per_run=arguments.gpus_per_run,
            cpus_per_run=arguments.cpus_per_run,
            retries=arguments.retries,
            already=already,
        )
    else:
        given = shares_of_machine(
            parallel=arguments.parallel,
            gpus_each=arguments.gpus_per_run,
            cpus_each=arguments.cpus_per_run,
            options=("--gpus-per-run", "--parallel"),
        )
        outcomes = run_local(jobs, given=given, retries=arguments.retries, already=already)
    return any(outcome.stopped for outcome in outcomes.values()) or len(outcomes) < len(jobs)


def _report(
    spec: "AblationSpec",
    runs: Sequence["PlannedRun"],
    jobs: Sequence["Job"],
    *,
    was_stopped: bool,
    folder: Path,
) -> int:
    # heavy: imported on use
    from grpo_mmpc.reports.ablation.report import write_report
    from grpo_mmpc.reports.common.findings import terminal_lines

    report = write_report(spec, runs, jobs, folder=folder)
    print("\n".join(terminal_lines(report.findings)))
    for path in report.paths:
        print(f"written to {path}")
    missing = [job.name for job in jobs if job.name in report.missing]
    if not missing:
        say(next_command("report", runs[0].config.run_dir))
        return 0
    say(f"{len(missing)} of {len(jobs)} jobs have no result: {', '.join(missing)}; the same command continues them")
    return 130 if was_stopped else 1


def _print_grid(spec: "AblationSpec", runs: Sequence["PlannedRun"], jobs: Sequence["Job"]) -> None:
    # heavy: imported on use
    from grpo_mmpc.ablation.jobs import state_of
    from grpo_mmpc.reports.common.labels import plural
    from grpo_mmpc.reports.common.tables import text_table

    states = {job.name: state_of(job) for job in jobs}
    rows = []
    for entry in runs:
        rewards = ", ".join(f"{reward.name} {reward.weight:g}" for reward in entry.config.rewards.mix if reward.weight)
        steps = str(entry.config.trainer.get("max_steps", "?"))
        what = "answers" if entry.config.method == "sft" else f"{entry.config.rewards.aggregation}: {rewards}"
        rows.append((entry.name, states[entry.name], steps, f"after {entry.after}; {what}" if entry.after else what))
    print("\n".join(text_table(("run", "state", "steps", "trained on"), rows, left=(0, 1, 3), spare=("trained on",))))
    bases = len({entry.base_key for entry in runs})
    times = "once" if bases == 1 else f"{bases} times"
    say(f"{plural(len(runs), 'run')}, compared with {spec.reference}; the untrained model is evaluated {times}")


def _load(arguments: Sequence[str]) -> "RunConfig":
    from grpo_mmpc.pipelines.recipe import load_recipe

    # It says each time that it is checking a recipe; that was said once for all.
    with redirect_stderr(io.StringIO()):
        return load_recipe(arguments)
