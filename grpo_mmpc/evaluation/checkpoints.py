"""Names and order of evaluated checkpoints."""

import re
from pathlib import Path


def latest_checkpoint(run: Path, *, suite: str = "cqbench") -> str | None:
    """The last evaluated checkpoint: ``final``, else the highest ``checkpoint-N``, else ``base``; None without any."""
    names = [path.parent.parent.name for path in (run / "evaluations").glob(f"*/{suite}/summary.json")]
    return max(names, key=checkpoint_order, default=None)


def checkpoint_order(name: str) -> tuple[int, int, str]:
    """Sort key of checkpoint names: base, checkpoint-N by N, final, anything else first of all by name."""
    number = re.fullmatch(r"checkpoint-(\d+)", name)
    if number:
        return (2, int(number[1]), name)
    return ({"base": 1, "final": 3}.get(name, 0), 0, name)


def run_of(evaluation: Path) -> Path | None:
    """The run that an evaluation folder belongs to: RUN of RUN/evaluations/CHECKPOINT/SUITE; None elsewhere."""
    evaluations = evaluation.resolve().parent.parent
    return evaluations.parent if evaluations.name == "evaluations" else None
