"""The command ``grpo-mmpc rewards``: list rewards, preview what fools them, start a new one."""

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.utils.console import reading
from grpo_mmpc.utils.options import output_folder, positive_int

if TYPE_CHECKING:
    from grpo_mmpc.config.rewards import RewardsSection


def add_parser(commands: Any) -> None:
    """Register the commands."""
    parser = commands.add_parser("rewards", help="list rewards, see what fools them, start one of your own")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    listing = actions.add_parser(
        "list",
        help="what is installed: range, tasks, needs, summary",
        description="One line for each installed reward. More about each, and how it can be gamed: rewards/README.md.",
    )
    listing.add_argument("--verbose", action="store_true", help="also print each factory with its arguments")
    listing.set_defaults(func=run_list)

    preview = actions.add_parser(
        "preview",
        help="how well rewards tell true answers from wrong ones, and how fast",
        description=(
            "Take true titles of a catalogue and answers that must lose against them (titles of other items, "
            "truncated, shuffled, stuffed with keywords, copied from the prompt, empty, over-long), let rewards score "
            "all of them, and show which reward is fooled by what, its range, its time, and whether it repeats "
            "itself. No policy is needed."
        ),
        epilog="example: grpo-mmpc rewards preview --catalogue nano:catalogue --mix recipes/preview/nano.yaml",
    )
    preview.add_argument(
        "--catalogue", required=True, metavar="DIR", help="catalogue folder, or nano:catalogue for the embedded one"
    )
    preview.add_argument(
        "--mix",
        nargs="+",
        default=[],
        metavar="MIX|KEY=VALUE",
        help="YAML files with a rewards section and overrides; a recipe will do "
        "(default: every installed reward with its default arguments)",
    )
    preview.add_argument("--items", type=positive_int, default=200, metavar="N", help="items to look at (%(default)s)")
    preview.add_argument(
        "--graded",
        type=Path,
        metavar="FILE",
        help="also show how far each reward agrees with grades: JSON lines with item_id, answer, grade (higher is "
        "better) and task (image_to_text)",
    )
    preview.add_argument("--seed", type=int, default=0, metavar="S", help="of items and wrong answers (%(default)s)")
    preview.add_argument(
        "--out",
        type=output_folder,
        default=Path("runs/reward_preview"),
        metavar="DIR",
        help="where to write (%(default)s)",
    )
    preview.set_defaults(func=run_preview)

    new = actions.add_parser(
        "new",
        help="write a reward to start from, and its test",
        description="Write NAME.py with a reward that runs and test_NAME.py with its test; print its line in a recipe.",
        epilog="example: grpo-mmpc rewards new brand_match",
    )
    new.add_argument("name", metavar="NAME", help="a Python name, such as brand_match")
    new.add_argument("--dir", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    new.set_defaults(func=run_new)


def run_list(arguments: argparse.Namespace) -> int:
    """Print one line per registered reward."""
    import inspect

    from grpo_mmpc.rewards import load_factory, registered_rewards
    from grpo_mmpc.utils.console import columns, fitted

    rows = []
    for name in sorted(registered_rewards()):
        factory = load_factory(name)
        summary = " ".join((inspect.getdoc(factory) or "").partition("\n\n")[0].replace("``", "").split())
        rows.append((name, *_declared(factory), summary))
    heads = ("name", "range", "tasks", "needs", "what it is")
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)][:-1]
    beside = sum(widths) + 2 * len(widths) + max(len(row[-1]) for row in rows)
    is_narrow = sys.stdout.isatty() and columns() < beside
    for row in (heads, *rows):
        cells = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
        if is_narrow:
            hang = " " * (sum(widths[:-1]) + 2 * len(widths[:-1]))
            print("\n".join(textwrap.wrap(cells, columns(), subsequent_indent=hang)))
        print(fitted(f"    {row[-1]}" if is_narrow else f"{cells}  {row[-1]}", sys.stdout))
        if arguments.verbose and row is not heads:
            signature = str(inspect.signature(load_factory(row[0]))).partition(" -> ")[0]
            print(f"{'':<{widths[0]}}  {row[0]}{signature}")
    print("\nYour own: grpo-mmpc rewards new NAME\nWhat fools which: grpo-mmpc rewards preview --catalogue DIR")
    return 0


def _declared(factory: Callable[..., Any]) -> tuple[str, str, str]:
    """Return range, tasks and needs of a reward with default arguments; dashes if unknown.

    One that has no default arguments needs those.
    """
    import inspect

    from grpo_mmpc.errors import GrpoMmpcError
    from grpo_mmpc.types import TARGET_KINDS

    try:
        reward = factory()
    except (TypeError, ValueError, GrpoMmpcError):  # it has no default arguments that work here
        parameters = inspect.signature(factory).parameters.values()
        required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
        return "-", "-", f"kwargs {', '.join(required)}" if required else "-"
    declared = getattr(reward, "value_range", None)
    targets = tuple(getattr(reward, "targets", TARGET_KINDS))
    needs = tuple(getattr(reward, "needs", ()))
    return (
        "-" if declared is None else "[{:g}, {:g}]".format(*declared),
        "any" if set(targets) == set(TARGET_KINDS) else ", ".join(targets),
        ", ".join(needs) or "nothing",
    )


def run_preview(arguments: argparse.Namespace) -> int:
    """Score, print the tables, write the files."""
    reading(arguments.catalogue)
    # heavy: imported on use
    from grpo_mmpc.analysis.reward_bench.bench import preview
    from grpo_mmpc.analysis.reward_bench.graded import read_graded
    from grpo_mmpc.analysis.reward_bench.text import lines
    from grpo_mmpc.nano.catalogue import catalogue_folder
    from grpo_mmpc.reports.reward_bench.page import write_files
    from grpo_mmpc.tasks import TASKS
    from grpo_mmpc.utils.console import Progress, quiet_when_redirected
    from grpo_mmpc.utils.manifest import command_line

    graded = read_graded(arguments.graded) if arguments.graded else None
    rewards, tasks = _chosen(arguments.mix)
    quiet_when_redirected()
    with Progress() as progress:
        results = preview(
            rewards,
            catalogue=catalogue_folder(arguments.catalogue),
            label=arguments.catalogue,
            tasks=tasks or list(TASKS),
            is_mix=bool(arguments.mix),
            items=arguments.items,
            seed=arguments.seed,
            command=command_line(),
            progress=progress,
            graded=graded,
        )
    paths = write_files(results, arguments.out)
    print("\n".join(lines(results, colour=sys.stdout.isatty())))
    print(f"\nwritten to {arguments.out}: {', '.join(path.name for path in paths)}")
    return 0


def run_new(arguments: argparse.Namespace) -> int:
    """Write the files and say what to do with them."""
    from grpo_mmpc.rewards.new_reward import write_new_reward

    new = write_new_reward(arguments.name, folder=arguments.dir)
    print(f"reward: {new.reward}\ntest:   {new.test}\n\nin a recipe, under rewards.mix:\n  {new.recipe_line}")
    print(f"\nedit both, then: python -m pytest {new.test}")
    return 0


def _chosen(words: list[str]) -> "tuple[RewardsSection, list[str] | None]":
    """The rewards of a mix with its tasks, or all that are installed."""
    from grpo_mmpc.config import RewardSpec, load_config, split_words
    from grpo_mmpc.config.rewards import RewardsSection
    from grpo_mmpc.rewards import registered_rewards

    if not words:
        return RewardsSection(mix=[RewardSpec(name=name, weight=0.0) for name in sorted(registered_rewards())]), None
    # A mixes file is no whole recipe; what it lacks plays no part here.
    rest = ["run_dir=unused", "model={name_or_path: unused}", "adapter={}", "data={catalogue: unused}"]
    files, overrides = split_words(words)
    config = load_config(files, [*overrides, *rest])
    from grpo_mmpc.errors import ConfigError
    from grpo_mmpc.tasks import TASKS

    if not (tasks := [task for task in config.tasks if task in TASKS]):
        raise ConfigError([f"tasks: wrong answers are made of titles, for {' and '.join(TASKS)}; name one of them"])
    return config.rewards, tasks
