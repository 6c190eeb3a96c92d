"""What is to be run and how far it is: read from the files, so that whoever is killed can be continued by anyone."""

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import yaml

from grpo_mmpc.ablation.grid import PlannedRun, first_difference
from grpo_mmpc.errors import ConfigError


class State(StrEnum):
    """How far a job is."""

    WAITING = "waiting"
    """Nothing is there that could be continued."""
    PARTLY_TRAINED = "partly trained"
    TRAINED = "trained"
    """All steps are done, the final evaluation is missing."""
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run, or one evaluation of the untrained model: one process, continued where an earlier one stopped."""

    name: str
    folder: Path
    """What it writes: the run folder, or the evaluation folder."""
    config: Path
    """Its resolved recipe, beside the folder; log, lock and record of attempts lie there too."""
    suite: str
    max_steps: int
    """0 for an evaluation; negative where the recipe counts epochs."""
    launcher: str
    working_directory: Path

    @property
    def is_base(self) -> bool:
        """Evaluates the untrained model instead of training."""
        return self.max_steps == 0

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
    """Jobs in the order in which they start: first what all runs are compared with."""
    here = Path.cwd()
    keys = list(dict.fromkeys(run.base_key for run in runs))
    bases = [
        Job(
            name=f"base-{number}",
            folder=base_folder(folder, number) / run.config.evaluation.suite,
            config=base_folder(folder, number).with_suffix(".yaml"),
            suite=run.config.evaluation.suite,
            max_steps=0,
            launcher="",
            working_directory=here,
        )
        for number, key in enumerate(keys)
        for run in [next(run for run in runs if run.base_key == key)]
    ]
    trainings = [
        Job(
            name=run.name,
            folder=Path(run.config.run_dir),
            config=Path(f"{run.config.run_dir}.yaml"),
            suite=run.config.evaluation.suite,
            max_steps=int(run.config.trainer.get("max_steps", -1)),
            launcher=launcher,
            working_directory=here,
        )
        for run in runs
    ]
    return bases + trainings


def base_folder(folder: Path, number: int) -> Path:
    """Where the untrained model's evaluation lies, a run folder's ``evaluations`` in shape."""
    return folder / "evaluations" / f"base-{number}"


def write_configs(runs: Sequence[PlannedRun], jobs: Sequence[Job], *, overwrite: bool) -> None:
    """Write every job's recipe beside its folder, unless one that was already started had another.

    Args:
        runs: The grid.
        jobs: Of ``jobs_of`` for the same runs.
        overwrite: Delete what jobs with another recipe have left, and start those again.

    Raises:
        ConfigError: Which runs have changed, and in what.
    """
    keys = list(dict.fromkeys(run.base_key for run in runs))
    firsts = [next(run for run in runs if run.base_key == key) for key in keys]
    bases = [
        run.config.model_copy(
            update={
                "evaluation": run.config.evaluation.model_copy(update={"controls": []}),
                "run_dir": str(job.config.with_suffix("")),
            }
        )
        for run, job in zip(firsts, jobs, strict=False)
    ]
    texts = [config.to_yaml() for config in [*bases, *(run.config for run in runs)]]
    changed = {
        job.name: (job, difference)
        for job, text in zip(jobs, texts, strict=True)
        if job.folder.exists() and (difference := _difference(job.config, text))
    }
    # The untrained model is cheap to evaluate again, and nothing is lost with it.
    lines = [f"{job.name}: {difference}" for job, difference in changed.values() if not job.is_base]
    if lines and not overwrite:
        raise ConfigError(
            [*lines, "these runs were started with another recipe; --overwrite starts them again, --out DIR keeps both"]
        )
    for job, _ in changed.values():
        shutil.rmtree(job.folder)
        job.attempts.unlink(missing_ok=True)
    for job, text in zip(jobs, texts, strict=True):
        job.config.parent.mkdir(parents=True, exist_ok=True)
        job.config.write_text(text, encoding="utf-8")


def _difference(path: Path, text: str) -> str:
    if not path.is_file():
        return "its recipe is missing"
    old = path.read_text("utf-8")
    return "" if old == text else first_difference(yaml.safe_load(old) or {}, yaml.safe_load(text))


def state_of(job: Job) -> State:
    """How far a job is, by its files alone."""
    is_measured = (job.final / "summary.json").is_file()
    if job.is_base:
        return State.FINISHED if is_measured else State.WAITING
    checkpoint = newest_checkpoint(job.folder)
    is_trained = checkpoint is not None and 0 < job.max_steps <= _steps(checkpoint)
    if is_measured and (is_trained or _has_ended(job.folder / "manifest.json")):
        return State.FINISHED
    if is_trained:
        return State.TRAINED
    return State.WAITING if checkpoint is None else State.PARTLY_TRAINED


def command_of(job: Job) -> list[str]:
    """What continues a job that is not finished; clears away what cannot be continued."""
    alone = [sys.executable, "-m", "grpo_mmpc"]
    if job.is_base:
        return [*alone, "evaluate", str(job.config), "--base", "--out", str(job.folder)]
    state = state_of(job)
    for checkpoint in (job.folder / "checkpoints").glob("checkpoint-*"):
        if _steps(checkpoint) < 0:  # killed while it was being saved: training would try to start from it
            shutil.rmtree(checkpoint)
    if state == State.TRAINED:
        last = newest_checkpoint(job.folder)
        return [*alone, "evaluate", str(job.config), "--checkpoint", str(last), "--out", str(job.final)]
    start = [*shlex.split(job.launcher), "-m", "grpo_mmpc"] if job.launcher else alone
    if state == State.PARTLY_TRAINED:
        return [*start, "train", str(job.config), "--resume"]
    if job.folder.exists():
        shutil.rmtree(job.folder)
    return [*start, "train", str(job.config)]


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The last checkpoint that was saved whole."""
    whole = [path for path in (run_dir / "checkpoints").glob("checkpoint-*") if _steps(path) >= 0]
    return max(whole, key=_steps, default=None)


def steps_done(job: Job) -> int:
    """Logged steps; what is shown while a job runs."""
    try:
        return (job.folder / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _steps(checkpoint: Path) -> int:
    """Steps behind a checkpoint; -1 if it is not whole (``trainer_state.json`` is what is saved last)."""
    try:
        return int(json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))["global_step"])
    except (OSError, ValueError, KeyError):
        return -1


def _has_ended(manifest: Path) -> bool:
    try:
        return bool(json.loads(manifest.read_text("utf-8")).get("finished"))
    except (OSError, ValueError):
        return False
