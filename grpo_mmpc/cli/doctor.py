"""``grpo-mmpc doctor``: this machine, and whether it has what a recipe needs."""

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "doctor",
        help="look this machine over: packages, GPUs, disks, ports, the hub; each lack with its remedy",
        description=(
            "Without a recipe what every training needs; with one also the packages that its options ask for, its "
            "models on the hub (missing, gated, offline), and every check of the recipe itself. Exit status 1 where "
            "something would fail."
        ),
        epilog="example: grpo-mmpc doctor recipes/qwen2_5_vl_7b.yaml data.catalogue=my_catalogue",
    )
    parser.add_argument("recipe", nargs="*", metavar="RECIPE|KEY=VALUE", help="YAML files, then overrides")
    parser.add_argument(
        "--worst-step",
        action="store_true",
        help="also load the model and take one real step with the longest prompts and the largest images",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was looked at; 1 if something would fail."""
    # heavy: imported on use
    from grpo_mmpc.config import RunConfig
    from grpo_mmpc.config.loading import merge_layers, split_words, validate
    from grpo_mmpc.errors import ConfigError, GrpoMmpcError
    from grpo_mmpc.pipelines.doctor import examine
    from grpo_mmpc.pipelines.recipe import load_recipe
    from grpo_mmpc.reports.common.labels import plural
    from grpo_mmpc.utils.console import Progress, next_command, printer
    from grpo_mmpc.utils.distributed import is_first_process, num_processes

    say, words = printer(is_first_process()), arguments.recipe
    config = None
    if arguments.worst_step and not words:
        raise ConfigError(["--worst-step takes a step of a recipe; name one"])
    if words:
        config = validate(RunConfig, merge_layers(*split_words(words)))
    problems, about = list[str](), ""
    with Progress() as progress:
        progress("looking at this machine", 0, detail="GPUs, disks, hub")
        for sign in examine(config):
            mark = {"ok": " ", "warning": "!", "problem": "x"}[sign.kind]
            say(f"{mark} {sign.about if sign.about != about else '':12}{sign.text}")
            if sign.remedy:
                say(f"  {'':12}-> {sign.remedy}")
            problems, about = [*problems, *([sign.text] if sign.kind == "problem" else [])], sign.about
    if words:
        try:
            config = load_recipe(words)
            say(f"  {'recipe':12}passes every check")
        except ConfigError as error:
            problems += error.problems
            for problem in error.problems:
                say(f"x {'recipe':12}{problem}")
    if arguments.worst_step and config is not None:
        from grpo_mmpc.pipelines import worst_step  # loads PyTorch and the model

        for problem in worst_step.problems_elsewhere(problems) if num_processes() > 1 else ():
            problems.append(problem)
            say(f"x {'other ranks':12}{problem}")
        try:
            if not problems:
                worst_step.take_worst_step(config, say=say)
        except GrpoMmpcError as error:
            problems.append(str(error))
            say(f"x {'worst step':12}{error}")
    say("")
    if problems:
        say(f"{plural(len(problems), 'problem')}; a training would fail")
        return 1
    say("nothing stands in the way" + (f"\n{next_command('plan', *words)}" if words else ""))
    return 0
