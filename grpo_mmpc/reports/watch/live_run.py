"""A run folder looked at again and again: what has changed is read, what has not is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.evaluation_folder import SUMMARY_FILE, headline
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.reports.watch.history import History
from grpo_mmpc.reports.watch.newest import Group, Newest, newest_evaluation, newest_groups
from grpo_mmpc.reports.watch.progress import Progress, progress_of
from grpo_mmpc.rewards.troubles import signal_troubles
from grpo_mmpc.training.claim import LOCK
from grpo_mmpc.utils.files import names_in
from grpo_mmpc.utils.sections import section

T = TypeVar("T")
_MARKS = {"config.yaml", "manifest.json", "metrics.jsonl"}
ABLATION_FILE = "ablation.yaml"
"""The ablation of a folder, as it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What there is to see of a run at one moment."""

    name: str
    run: RunFolder
    progress: Progress
    rows: Sequence[Mapping[str, Any]]
    """Of ``metrics.jsonl``, see ``History.rows``."""
    latest: Sequence[Mapping[str, Any]]
    weights: Mapping[str, float]
    """Of the mix, by the name that rewards are logged under; 0 = monitor."""
    alarms: list[str]
    evaluated: str
    """A metric for each task of the newest evaluation, in words; empty before the first."""
    newest: Newest | None
    groups: list[Group]
    notes: list[str]
    """What is there and cannot be read."""


@dataclass(eq=False)
class LiveRun:
    """A run folder and what was read of it."""

    path: Path
    name: str
    _history: History = field(init=False)
    _run: RunFolder = field(init=False)
    _kept: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._history = History(self.path)

    def look(self, *, whole: bool = True) -> View:
        """Read what has changed; without ``whole``, evaluations and rollouts are left out."""
        notes: list[str] = []
        files, evaluations = self._signature()
        run = self.kept("run", (files, evaluations), lambda: _open(self.path))
        self._try("metrics.jsonl", self._history.read, notes)
        latest = list(self._history.latest)
        weights = run.weights
        progress = progress_of(run, self._history)
        troubles = self._try("metrics.jsonl", lambda: signal_troubles(latest, weights), notes)
        evaluated = self._try(
            "evaluations", lambda: self.kept("evaluated", evaluations, lambda: _evaluated(run)), notes
        )
        newest, groups = None, None
        if whole:
            newest = self._try(
                "evaluations", lambda: self.kept("newest", evaluations, lambda: newest_evaluation(run)), notes
            )
            if file := next(reversed(progress.rollouts.values()), None):
                groups = self._try(
                    file.name, lambda: self.kept("groups", (file, _changed(file)), lambda: newest_groups(file)), notes
                )
        return View(
            name=self.name,
            run=run,
            progress=progress,
            rows=self._history.rows,
            latest=latest,
            weights=weights,
            alarms=[*(troubles or {}).values(), *_failures(run, latest)],
            evaluated=evaluated or "",
            newest=newest,
            groups=groups or [],
            notes=list(dict.fromkeys([*run.broken, *notes])),
        )

    def kept(self, name: str, key: Any, read: Callable[[], T]) -> T:
        """Return what was read under this name, read again if the key is another one."""
        if name not in self._kept or self._kept[name][0] != key:
            self._kept[name] = (key, read())
        value: T = self._kept[name][1]
        return value

    def _signature(self) -> tuple[Any, Any]:
        """Return what tells whether files of the run were written, and those of its evaluations."""
        files = [self.path / name for name in ("config.yaml", "manifest.json", "comparison.json", "best.json")]
        summaries = sorted(self.path.glob(f"evaluations/*/*/{SUMMARY_FILE}"))
        own, evaluations = (tuple((path, _changed(path)) for path in paths) for paths in (files, summaries))
        return own, evaluations

    def _try(self, what: str, read: Callable[[], T], notes: list[str]) -> T | None:
        """Return what is read; a broken file is named in the notes and ends nothing."""
        try:
            return read()
        # A stranger's file, or one that is being written: Arrow alone has many kinds of errors.
        except (OSError, EvaluationError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            notes.append(f"{what} cannot be read ({' '.join(str(error).split())[:200]}).")
            return None


def find_runs(folders: Sequence[Path], *, wait: bool) -> list[LiveRun]:
    """Return the runs of folders, those of an ablation one by one; ``wait`` takes empty ones too.

    Raises:
        EvaluationError: A folder is neither that of a run nor one where a run may still begin.
    """
    runs: dict[Path, LiveRun] = {}
    for run in (run for folder in folders for run in _runs_of(folder, wait=wait)):
        runs.setdefault(run.path.resolve(), run)
    return list(runs.values())


def _runs_of(folder: Path, *, wait: bool) -> list[LiveRun]:
    if (folder / ABLATION_FILE).is_file():
        recipes = sorted(folder.glob("*/seed-*.yaml"))
        if not recipes:
            raise EvaluationError(f"{folder}: this ablation has started no run yet; `grpo-mmpc ablate` starts them")
        return [LiveRun(path.with_suffix(""), f"{path.parent.name}/{path.stem}") for path in recipes]
    if folder.is_dir() and names_in(folder) & _MARKS:
        return [LiveRun(folder, folder.resolve().name)]
    if wait and not folder.is_file() and names_in(folder) <= {LOCK}:
        return [LiveRun(folder, folder.resolve().name)]
    what = "is no run folder" if folder.exists() else "does not exist"
    raise EvaluationError(
        f"{folder} {what}: expected {', '.join(sorted(_MARKS))} as `grpo-mmpc train` writes them, or "
        f"{ABLATION_FILE} of an ablation; name the run_dir of a recipe"
    )


def _open(path: Path) -> RunFolder:
    """Return a run with the evaluations of its own suite, which its manifest names."""
    suite = section(RunFolder(path, notes=[]).manifest, "suite").get("name")
    return RunFolder(path, suite=suite if isinstance(suite, str) else None, notes=[])


def _evaluated(run: RunFolder) -> str:
    if run.latest is None:
        return ""
    tasks = headline(run.evaluations[run.latest]).split("; ")
    return f"{run.latest}: {', '.join(task.partition(': ')[2].partition(',')[0] for task in tasks)}"


def _failures(run: RunFolder, latest: Sequence[Mapping[str, Any]]) -> list[str]:
    skipped = sum(bool(row.get("skipped_updates")) for row in latest)
    said = f"{skipped} of the latest updates had a gradient that is no number and were skipped."
    return [said, *run.failures] if skipped else run.failures


def _changed(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
