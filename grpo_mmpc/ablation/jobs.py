"""What is to be run and how far it is: read from the files, so that whoever is killed can be continued by anyone."""

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from grpo_mmpc.ablation.grid import PlannedRun, first_difference
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.evaluation.evaluation_folder import SAMPLES_FILE, SUMMARY_FILE
from grpo_mmpc.utils.files import write_text


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
    is_base: bool
    """Evaluates the untrained model instead of training."""
    max_steps: int
    """0 for an evaluation; 0 or less where the recipe counts epochs."""
    launcher: str
    working_directory: Path

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
    """Jobs in the order in which they start: first what all runs are compared with.

    Their paths are absolute: workers of a cluster run elsewhere.
    """
    here = Path.cwd()
    folder = folder.absolute()
    keys = list(dict.fromkeys(run.base_key for run in runs))
    bases = [
        Job(
            name=f"base-{number}",
            folder=base_folder(folder, number) / run.config.evaluation.suite,
            config=base_folder(folder, number).with_suffix(".yaml"),
            suite=run.config.evaluation.suite,
            is_base=True,
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
            folder=Path(run.config.run_dir).absolute(),
            config=Path(f"{run.config.run_dir}.yaml").absolute(),
            suite=run.config.evaluation.suite,
            is_base=False,
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
    texts = _recipes(runs, jobs)
    changed = _changed(jobs, texts)
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
        if _text_of(job.config) != text:  # a run that still lives may be reading it
            job.config.parent.mkdir(parents=True, exist_ok=True)
            write_text(job.config, text)


def check_recipes(runs: Sequence[PlannedRun], jobs: Sequence[Job]) -> None:
    """Refuse results of another recipe; writes nothing.

    Raises:
        ConfigError: Which runs have another recipe, and in what.
    """
    changed = _changed(jobs, _recipes(runs, jobs))
    if changed:
        lines = [f"{job.name}: {difference}" for job, difference in changed.values()]
        raise ConfigError(
            [
                *lines,
                "these results are of another recipe and would be shown as if they were of this one; name the same "
                "ablation file and overrides as when they were made, or run without --report-only",
            ]
        )


def _recipes(runs: Sequence[PlannedRun], jobs: Sequence[Job]) -> list[str]:
    """The recipe of every job."""
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
    return [config.to_yaml() for config in [*bases, *(run.config for run in runs)]]


def _changed(jobs: Sequence[Job], texts: Sequence[str]) -> dict[str, tuple[Job, str]]:
    """By name, jobs that left something under another recipe, and the first difference."""
    return {
        job.name: (job, difference)
        for job, text in zip(jobs, texts, strict=True)
        if job.folder.exists() and (difference := _difference(job.config, text))
    }


def _difference(path: Path, text: str) -> str:
    old = _text_of(path)
    if old is None:
        return "its recipe is missing"
    return "" if old == text else first_difference(_settings(old), _settings(text))


def _settings(text: str) -> dict[str, Any]:
    """A recipe without its folder, which is the same one however it is written: the recipe lies beside it."""
    return {key: value for key, value in (yaml.safe_load(text) or {}).items() if key != "run_dir"}


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None


def state_of(job: Job) -> State:
    """How far a job is, by its files alone."""
    is_measured = _is_whole(job.final)
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
    """What continues a job that is not finished; clears away what cannot be continued. Only for who holds its lock."""
    alone = [sys.executable, "-m", "grpo_mmpc"]
    if not _is_whole(job.final):  # else half an evaluation would be taken for one that need not be repeated
        (job.final / SAMPLES_FILE).unlink(missing_ok=True)
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
    """Steps behind a checkpoint; -1 if it is not whole (these two files are saved last, in this order).

    Raises:
        OSError: It cannot be read, which says nothing about it.
    """
    try:
        steps = int(json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))["global_step"])
        json.loads((checkpoint / "reward_state.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError, KeyError):
        return -1
    return steps


def _is_whole(evaluation: Path) -> bool:
    """Whether both files of an evaluation are there and can be read.

    Raises:
        OSError: The disk cannot be read, which says nothing about them.
    """
    try:
        json.loads((evaluation / SUMMARY_FILE).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    import pyarrow as pa  # heavy: imported on use
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(evaluation / SAMPLES_FILE) as file:
            return bool(file.metadata.num_columns)
    except (FileNotFoundError, pa.ArrowException):
        return False
    except OSError as error:
        if error.errno is None:  # Arrow's, for a file that is cut short
            return False
        raise


def _has_ended(manifest: Path) -> bool:
    try:
        return bool(json.loads(manifest.read_text("utf-8")).get("finished"))
    except (FileNotFoundError, ValueError):
        return False
