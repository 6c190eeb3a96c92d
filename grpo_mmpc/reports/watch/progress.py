"""How far a run is, as its files tell: whether it runs, what it does now, how long it will take."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from grpo_mmpc.evaluation.evaluation_folder import SUMMARY_FILE
from grpo_mmpc.evaluation.run_folder import RunFolder, finite
from grpo_mmpc.reports.common.labels import date, duration, plural
from grpo_mmpc.reports.watch.history import History, mean_of
from grpo_mmpc.training.checkpoint import SAVING
from grpo_mmpc.training.claim import LOCK
from grpo_mmpc.utils.console import next_command
from grpo_mmpc.utils.files import read_own
from grpo_mmpc.utils.locks import Holder, holder
from grpo_mmpc.utils.sections import section

_PACE_STEPS = 50
"""The latest steps, over which the pace is measured."""
_DEFAULT_EPOCHS = 3.0
"""Of Transformers, where a recipe says neither ``max_steps`` nor ``num_train_epochs``."""


class State(StrEnum):
    """Whether a run runs."""

    WAITING = "not begun"
    RUNNING = "running"
    KILLED = "killed"
    """Its process is gone and had no time to say so."""
    STOPPED = "stopped"
    """It ended in order before its last step, by a signal or an error."""
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    state: State
    doing: str
    """What it does now, or what ended it, in words."""
    step: int
    total: int | None
    """None where nobody knows."""
    pace_s: float | None
    """Seconds a step, evaluations and checkpoints in between included."""
    rollouts: dict[int, Path]
    """The latest files of rollouts, by step."""

    @property
    def share(self) -> float:
        """The share of the steps that is done, 0 to 1."""
        return min(1.0, self.step / self.total) if self.total else 0.0

    @property
    def left(self) -> str:
        """The time that the remaining steps take at this pace; empty where none is known."""
        if self.state != State.RUNNING or self.pace_s is None or self.total is None or self.step >= self.total:
            return ""
        return f"{duration(self.pace_s)} a step, about {duration(self.pace_s * (self.total - self.step))} left"


def progress_of(run: RunFolder, history: History) -> Progress:
    """Read how far a run is; takes no lock and writes nothing."""
    held, total = holder(run.path / LOCK), _total(run.config, history)
    files = run.rollouts_since(max(0, history.step - _PACE_STEPS))
    state = _state(run, held)
    return Progress(
        state=state,
        doing=_doing(run, state, history, held=held, total=total, sampled=max(files, default=0)),
        step=history.step,
        total=total,
        pace_s=_pace(run, files, history),
        rollouts=files,
    )


def _state(run: RunFolder, held: Holder | None) -> State:
    if held is not None:
        return State.KILLED if held.is_alive is False else State.RUNNING
    if run.manifest.get("finished"):
        return State.FINISHED
    return State.STOPPED if (run.path / "config.yaml").exists() else State.WAITING


def _doing(
    run: RunFolder, state: State, history: History, *, held: Holder | None, total: int | None, sampled: int
) -> str:
    if state == State.WAITING:
        return "no run has begun in this folder yet" if run.path.is_dir() else "this folder does not exist yet"
    if state == State.FINISHED:
        seconds = finite(run.manifest.get("seconds"))
        return f"in {duration(seconds)}" if seconds is not None else ""
    written = _last_write(run.path)
    if state in (State.KILLED, State.STOPPED):
        why = "its process ended without a word, " if state == State.KILLED else ""
        at = date(datetime.fromtimestamp(written, UTC).isoformat())
        return f"{why}last written {at}; {next_command('train', run.path / 'config.yaml', label='go on with')}"
    now = _phase(run, history, total=total, sampled=sampled)
    for saving in (run.path / "checkpoints" / SAVING).glob("checkpoint-*"):  # beside the next step
        now += f", saving {saving.name}"
    if evaluated := _unfinished_evaluation(run, beside=True):
        now += f", {_evaluating(evaluated, run)}"
    if held is None or held.is_alive:
        return now
    return f"{now}, on {held.machine}, last written {duration(max(0.0, time.time() - written))} ago"


def _phase(run: RunFolder, history: History, *, total: int | None, sampled: int) -> str:
    if not run.manifest:
        return "starting: reading data, loading the model"
    if unfinished := _unfinished_evaluation(run, beside=False):
        return _evaluating(unfinished, run)
    if total is not None and history.step >= total:
        return "finishing: last evaluations, comparison, report"
    if run.config.get("method") == "sft":
        return f"training step {history.step + 1}"
    if sampled > history.step:
        return f"updating on the completions of step {sampled}"
    return f"sampling completions for step {history.step + 1}"


def _unfinished_evaluation(run: RunFolder, *, beside: bool) -> Path | None:
    """Return the evaluation that is being written, beside training or while it waits.

    It has no summary; while training waits nothing is newer.
    """
    is_on_servers = section(run.config, "evaluation").get("where") == "servers"
    folders = (
        path
        for path in run.path.glob(f"evaluations/*/{run.suite}")
        if not (path / SUMMARY_FILE).exists()
        and beside == (is_on_servers and (run.path / "checkpoints" / path.parent.name).exists())
    )
    newest = max(folders, key=_last_write, default=None)
    if beside:
        return newest
    others = max((_modified(run.path / name) for name in ("metrics.jsonl", "rollouts")), default=0.0)
    return newest if newest is not None and _last_write(newest) >= others else None


def _evaluating(folder: Path, run: RunFolder) -> str:
    of = finite(section(run.manifest, "suite").get("items"))
    what = f"evaluating {folder.parent.name.replace('control-', 'the control ')}"
    try:
        done = read_own(folder / "completions.jsonl", folder=folder).count(b"\n")
    except OSError:
        return what
    if of is None or folder.parent.name.startswith("control-"):  # controls ask some of the items
        return f"{what}: {plural(done, 'item')} answered"
    return f"{what}: {done:,} of {plural(int(of), 'item')} answered{', scoring' if done >= of else ''}"


def _total(config: Mapping[str, Any], history: History) -> int | None:
    trainer = section(config, "trainer")
    steps = finite(trainer.get("max_steps"))
    if steps is not None and steps > 0:
        return int(steps)
    epochs = finite(trainer.get("num_train_epochs", _DEFAULT_EPOCHS))
    done = finite(history.latest[-1].get("epoch")) if history.latest else None
    return round(history.step / done * epochs) if done and epochs else None


def _pace(run: RunFolder, files: Mapping[int, Path], history: History) -> float | None:
    """Return the seconds a step, by the times at which files were written since the last start."""
    started = _timestamp(run.manifest.get("started"))
    times = {step: _modified(path) for step, path in files.items()}
    known = [(step, at) for step, at in times.items() if at >= (started or 0.0)]
    if len(known) > 1:
        (first, begun), (last, ended) = known[0], known[-1]
        return (ended - begun) / (last - first)
    seconds = mean_of(history.latest, "step_time")
    if seconds is not None:
        return seconds
    logged = _modified(run.path / "metrics.jsonl")  # fine-tuning records no rollouts
    return (logged - started) / history.step if started is not None and 0 < history.step else None


def _last_write(folder: Path) -> float:
    """Return when something in a folder of a run was written last, as a time stamp."""
    return max(map(_modified, _signs(folder)))


def _signs(folder: Path) -> Iterator[Path]:
    yield folder
    names = ("metrics.jsonl", "manifest.json", "rollouts", "checkpoints", "completions.jsonl", "samples.parquet")
    yield from (folder / name for name in names)
    yield from folder.glob("evaluations/*/*/completions.jsonl")


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _timestamp(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return None
