"""A run's claim of its folder: one recipe and one process at a time, nothing deleted unasked."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from grpo_mmpc.config import RunConfig, read_yaml
from grpo_mmpc.config.problems import first_difference
from grpo_mmpc.config.recorded import is_of_a_run
from grpo_mmpc.errors import ConfigError, TrainingError
from grpo_mmpc.models.identity import adapter_identity
from grpo_mmpc.training.checkpoint import newest_checkpoint
from grpo_mmpc.utils.faults import try_folder
from grpo_mmpc.utils.files import names_in, read_object, remove_partial, write_text
from grpo_mmpc.utils.locks import hold, in_use
from grpo_mmpc.utils.single_out import SET_ASIDE_FILE

logger = logging.getLogger(__name__)

LOCK = ".train.lock"
LEFT_BY_A_FAILED_START = {
    *(LOCK, "config.yaml", "quarantine.jsonl", "manifest.json", "parity.jsonl", SET_ASIDE_FILE, "evaluations")
}
"""Files of a run that has not made a step, which may stay: an evaluation knows its policy."""


@contextmanager
def claimed(config: RunConfig, *, overwrite: bool) -> Iterator[None]:
    """Hold the run folder for the duration of a block, if this recipe may start or go on in it.

    Nothing of an earlier run is touched before ``take_over``: a start that fails costs none.

    Raises:
        TrainingError: Another process holds it, or it holds another recipe's run, or no run.
    """
    run_dir = Path(config.run_dir)
    check_folder(config, overwrite=overwrite)
    refuse = in_use(run_dir, TrainingError, command="training", instead="choose another run_dir")
    with hold(run_dir / LOCK, refuse=refuse) as left:
        if left:
            logger.warning(
                "the training before this one (%s) ended without a word, as after kill -9, for want of memory, or by a "
                "reward that ends its process (isolated: true in its spec keeps that apart)",
                left,
            )
        check_folder(config, overwrite=overwrite)  # what it held a moment ago may have been written since
        try:
            yield
        finally:
            if run_dir.is_dir() and [path.name for path in run_dir.iterdir()] == [LOCK]:  # a start that failed
                shutil.rmtree(run_dir)


def take_over(config: RunConfig, *, overwrite: bool) -> None:
    """Write into the folder what runs, and remove what must not stay: all, with ``overwrite``.

    Killed meanwhile, it is still the folder of a run.
    """
    run_dir = Path(config.run_dir)
    if overwrite:
        for path in run_dir.iterdir():
            if path.name not in (LOCK, "config.yaml"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    remove_partial(run_dir)
    write_text(run_dir / "config.yaml", config.to_yaml())


def check_folder(config: RunConfig, *, overwrite: bool) -> None:
    """Refuse a folder that this recipe may neither start nor go on in; touches nothing.

    Raises:
        TrainingError: It holds another recipe's run, or no run.
        OSError: It cannot be written.
    """
    run_dir = Path(config.run_dir)
    try_folder(run_dir)
    recorded = run_dir / "config.yaml"
    if names_in(run_dir) <= {LOCK}:
        return
    if not recorded.exists():
        raise TrainingError(f"{run_dir} is not empty and holds no run; choose another run_dir")
    if not is_of_a_run(run_dir):
        raise TrainingError(f"{recorded} is not that of a run: {run_dir} is left as it is; choose another run_dir")
    if overwrite or not _has_begun(run_dir):
        return
    difference = _difference(recorded, config)
    start = start_identity(config)
    if not difference and read_object(run_dir / "manifest.json").get("start", start) != start:
        difference = f"the adapter in model.init_from={config.model.init_from} has changed since"
    if difference:
        raise TrainingError(
            f"{run_dir} holds a run of another recipe: {difference}; continue that one with "
            f"grpo-mmpc train {recorded}, add --overwrite to delete it, or run_dir=OTHER to keep both"
        )


def start_identity(config: RunConfig) -> str | None:
    """Hash the adapter that a run starts from; None if it starts from the base model."""
    start = config.asked(None)
    return None if start is None else adapter_identity(start)


def _has_begun(run_dir: Path) -> bool:
    """Return whether a run has made a step: a start that failed is not in the way of another."""
    left = names_in(run_dir) - LEFT_BY_A_FAILED_START
    if "checkpoints" in left and newest_checkpoint(run_dir / "checkpoints") is None:
        left.remove("checkpoints")
    return bool(left - {"rollouts"}) or len(list((run_dir / "rollouts").glob("*.parquet"))) > 1


def _difference(recorded: Path, config: RunConfig) -> str:
    """Return the first key whose meaning differs, whatever keys the file was written with."""
    try:
        old = RunConfig.model_validate(read_yaml(recorded))
    except (ConfigError, ValidationError) as error:
        return f"{recorded} cannot be read ({' '.join(str(error).split())})"
    return first_difference(old.settings(), config.settings())
