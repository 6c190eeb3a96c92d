"""Jobs and how far they are: read from files, so that a killed job can be continued by anyone."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from grpo_mmpc.ablation.grid import PlannedRun
from grpo_mmpc.evaluation.evaluation_folder import SAMPLES_FILE, SUMMARY_FILE
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.training.checkpoint import newest_checkpoint, steps_of
from grpo_mmpc.utils.files import NotOwnError, read_own
from grpo_mmpc.utils.parquet import open_parquet


class State(StrEnum):
    """The progress of a job."""

    WAITING = "waiting"
    """Nothing is there that could be continued."""
    PARTLY_TRAINED = "partly trained"
    TRAINED = "trained"
    """All steps are done, the final evaluation is missing."""
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run, or one evaluation of the untrained model, continued where it stopped."""

    name: str
    folder: Path
    """The folder that it writes, of a run or of an evaluation."""
    config: Path
    """Its resolved recipe, beside the folder; log, lock and record of attempts lie there too."""
    recipe: str
    """The text of ``config``."""
    suite: str
    base: str | None
    """Name of the job that evaluates the untrained model of a run; None for that job itself."""
    after: str | None
    """Name of the job that must have finished before this one."""
    max_steps: int
    """0 for an evaluation; 0 or less where the recipe counts epochs."""
    launcher: str
    working_directory: Path

    @property
    def is_base(self) -> bool:
        """True if it evaluates the untrained model instead of training."""
        return self.base is None

    @property
    def log(self) -> Path:
        """Everything its processes print, attempt after attempt."""
        return self.config.with_suffix(".log")

    @property
    def lock(self) -> Path:
        """Held by its processes as long as any of them lives."""
        return self.config.with_suffix(".lock")

    @property
    def attempts(self) -> Path:
        """One line for every attempt that ended."""
        return self.config.with_suffix(".attempts.jsonl")

    @property
    def final(self) -> Path:
        """The evaluation that it ends with."""
        return self.folder if self.is_base else self.folder / "evaluations" / "final" / self.suite


def jobs_of(runs: Sequence[PlannedRun], *, folder: Path, launcher: str) -> list[Job]:
    """Return the jobs in the order in which they start: first what all runs are compared with.

    Their paths are absolute: workers of a cluster run elsewhere.
    """
    bases: dict[str, Job] = {}
    for run in runs:
        if run.base_key not in bases:
            bases[run.base_key] = _base_job(run, folder.absolute() / "evaluations" / f"base-{len(bases)}")
    trainings = [
        Job(
            name=run.name,
            folder=Path(run.config.run_dir).absolute(),
            config=Path(f"{run.config.run_dir}.yaml").absolute(),
            recipe=run.config.to_yaml(),
            suite=run.config.evaluation.suite,
            base=bases[run.base_key].name,
            after=run.after,
            max_steps=int(run.config.trainer.get("max_steps", -1)),
            launcher=launcher,
            working_directory=Path.cwd(),
        )
        for run in runs
    ]
    return [*bases.values(), *trainings]


def _base_job(run: PlannedRun, folder: Path) -> Job:
    evaluation = run.config.evaluation.model_copy(update={"controls": []})
    model = run.config.model if run.after is None else run.config.model.model_copy(update={"init_from": None})
    return Job(
        name=folder.name,
        folder=folder / run.config.evaluation.suite,
        config=folder.with_suffix(".yaml"),
        recipe=run.config.model_copy(
            update={"evaluation": evaluation, "model": model, "run_dir": str(folder)}
        ).to_yaml(),
        suite=run.config.evaluation.suite,
        base=None,
        after=None,
        max_steps=0,
        launcher="",
        working_directory=Path.cwd(),
    )


def state_of(job: Job) -> State:
    """Return how far a job is, by its files alone."""
    is_measured = _is_whole(job.final)
    if job.is_base:
        return State.FINISHED if is_measured else State.WAITING
    checkpoint = newest_checkpoint(job.folder / "checkpoints")
    is_trained = checkpoint is not None and 0 < job.max_steps <= (steps_of(checkpoint) or 0)
    if is_measured and (is_trained or RunFolder(job.folder, notes=[]).manifest.get("finished")):
        return State.FINISHED
    if is_trained:
        return State.TRAINED
    return State.WAITING if checkpoint is None else State.PARTLY_TRAINED


def command_of(job: Job) -> list[str]:
    """Return what starts, continues or finishes a job; only for who holds the job's lock."""
    alone = [sys.executable, "-m", "grpo_mmpc"]
    if not _is_whole(job.final):  # one that is damaged would be taken for one that need not be repeated
        (job.final / SUMMARY_FILE).unlink(missing_ok=True)
    if job.is_base:
        return [*alone, "evaluate", str(job.config), "--base", "--out", str(job.folder)]
    start = [*shlex.split(job.launcher), "-m", "grpo_mmpc"] if job.launcher else alone
    return [*start, "train", str(job.config)]


def steps_done(job: Job) -> int:
    """Return the number of logged steps, which is shown while a job runs."""
    try:
        return read_own(job.folder / "metrics.jsonl").count(b"\n")
    except FileNotFoundError:
        return 0


def _is_whole(evaluation: Path) -> bool:
    """Return whether both files of an evaluation are there and can be read."""
    try:
        json.loads(read_own(evaluation / SUMMARY_FILE))
        return bool(open_parquet(evaluation / SAMPLES_FILE).schema.names)
    except NotOwnError:
        raise
    except (FileNotFoundError, ValueError):  # Arrow's own error for what is no Parquet is a ValueError
        return False
    except OSError as error:
        if error.errno is None:  # Arrow's, for a file that is cut short
            return False
        raise
