"""The command ``grpo-mmpc rescore``: replay saved rollouts under another reward mix."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.utils.console import next_command, printer, reading
from grpo_mmpc.utils.options import output_folder

if TYPE_CHECKING:
    from grpo_mmpc.config import RunConfig


say = printer(True)


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "rescore",
        help="replay saved rollouts under another reward mix, without a GPU",
        description=(
            "Score every completion that a run has saved with another mix, and compare: would the advantages be the "
            "same, would other completions win, would there be a signal at all? Neither policy nor GPU is needed, only "
            "the run's catalogue and the encoders of the rewards."
        ),
        epilog="example: grpo-mmpc rescore runs/nano --mix recipes/mixes/bleu.yaml",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, with rollouts/ and config.yaml")
    parser.add_argument(
        "--mix",
        nargs="+",
        default=[],
        metavar="MIX|KEY=VALUE",
        help="YAML files with a rewards section (and tasks to train) and overrides, merged over the run's config.yaml "
        "(default: the run's own mix, which must come out as it was)",
    )
    parser.add_argument(
        "--out", type=output_folder, metavar="DIR", help="where to write (default: RUN/rescored/NAME_OF_THE_MIX)"
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="TARGET",
        help="a module:factory or file.py:factory of the run's own config.yaml that you know and that may be executed; "
        "what --mix names needs no such word",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Replay, write both files, print the result."""
    reading(arguments.run)
    from grpo_mmpc.config import load_config, split_words
    from grpo_mmpc.config.recorded import load_recorded
    from grpo_mmpc.errors import EvaluationError
    from grpo_mmpc.pipelines.recipe import check_rewards

    recorded = arguments.run / "config.yaml"
    if not recorded.is_file():
        raise EvaluationError(
            f"{arguments.run} holds no config.yaml; expected a run folder as `grpo-mmpc train` writes it"
        )
    files, overrides = split_words(arguments.mix)
    new = load_recorded(recorded, files, overrides, trusted=arguments.trust, used=["rewards"], checks=[check_rewards])
    old = load_config([recorded])
    name = mix_name(files, overrides)
    out = arguments.out or _folder(arguments.run / "rescored", name, new)
    _rescore(arguments.run, old=old, new=new, name=name, out=out)
    if arguments.mix:
        say(next_command("train", recorded, *arguments.mix, f"run_dir={arguments.run}-{name}"))
    return 0


def mix_name(files: list[str], overrides: list[str]) -> str:
    """Name a folder for the mix: ``bleu``, ``bleu+rewards.mix.0.weight=0.5``, or ``own``."""
    parts = [*(Path(file).stem for file in files), *overrides] or ["own"]
    return re.sub(r"[^\w.=+-]+", "_", "+".join(parts))[:120]


def _folder(rescored: Path, name: str, new: "RunConfig") -> Path:
    """Return the folder of a mix: files of one name in two places do not replace each other."""
    from grpo_mmpc.analysis.replay.result import mix_key

    folder, key = rescored / name, mix_key(new)
    summary = folder / "summary.json"
    is_other = summary.is_file() and f'"key": "{key}"' not in summary.read_text("utf-8", errors="replace")
    return rescored / f"{name}-{key}" if is_other else folder


def _rescore(run_dir: Path, *, old: "RunConfig", new: "RunConfig", name: str, out: Path) -> None:
    # heavy: imported on use
    from grpo_mmpc.analysis.replay.replay import replay
    from grpo_mmpc.analysis.replay.text import lines
    from grpo_mmpc.utils.console import Progress

    with Progress() as progress:
        result = replay(run_dir, name=name, old=old, new=new, out=out, progress=progress)
    print("\n".join(lines(result, colour=sys.stdout.isatty())))
    say(f"written to {out}: rollouts.parquet (every completion under both mixes), summary.json")
