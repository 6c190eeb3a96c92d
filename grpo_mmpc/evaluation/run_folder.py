"""The reader of a run folder: files may be missing or broken, and nothing is executed."""

import io
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from grpo_mmpc.config.rewards import reward_key
from grpo_mmpc.config.yaml_files import parse_yaml
from grpo_mmpc.errors import ConfigError, EvaluationError
from grpo_mmpc.evaluation.evaluation_folder import SAMPLES_FILE, SUMMARY_FILE, run_of
from grpo_mmpc.evaluation.records import Best, Comparison
from grpo_mmpc.nano.catalogue import NANO_CATALOGUE
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.utils.cache import cache_folder
from grpo_mmpc.utils.files import check_own, json_lines, read_own
from grpo_mmpc.utils.sections import section

_ROLLOUTS = re.compile(r"step-(\d+)(?:-(\d+))?\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixEntry:
    """One reward of a run's mix, as ``config.yaml`` names it."""

    name: str
    weight: float
    """0 = measured, never trained on."""
    tasks: tuple[str, ...] | None
    """None = all that it can score."""


class RunFolder:
    """A run folder as data; files are read when they are first asked for.

    A missing file counts as empty and a broken one is an error, unless ``notes`` is given: then
    both are said there in a sentence, and reading goes on without the file. Without ``suite``,
    evaluations are those of the suite of ``comparison.json``, else of ``cqbench``.
    """

    def __init__(self, path: Path, *, suite: str | None = None, notes: list[str] | None = None) -> None:
        self.path = path
        self._suite = suite
        self._notes = notes
        self.broken: list[str] = []
        """Those of the notes that are about files which are there and cannot be read."""

    @classmethod
    def of_evaluation(cls, evaluation: Path) -> "RunFolder | None":
        """Return the run that an evaluation folder belongs to; None where it lies elsewhere."""
        run = run_of(evaluation)
        return None if run is None else cls(run, suite=evaluation.resolve().name)

    @cached_property
    def config_text(self) -> str | None:
        """``config.yaml`` word for word."""
        return self._text(self.path / "config.yaml", lacking="the configuration is unknown")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``config.yaml`` as plain values."""
        try:
            content = parse_yaml(self.config_text or "", source="config.yaml")
        except ConfigError as error:
            self.report(f"{error.problems[0]}; restore it: it says what was trained on.")
            return {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def mix(self) -> list[MixEntry]:
        """The reward mix; empty without ``config.yaml``, and where no reward was trained on."""
        try:
            uses_rewards = self.config and self.config.get("method") != "sft"
            specs = self.config["rewards"]["mix"] if uses_rewards else []
            return [
                MixEntry(
                    name=str(spec["name"]),
                    weight=float(spec.get("weight", 1.0)),
                    tasks=None if spec.get("tasks") is None else tuple(spec["tasks"]),
                )
                for spec in specs
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.report(
                f"config.yaml: cannot read which rewards were trained on ({type(error).__name__}: {error}); "
                "expected rewards.mix, a list of name and weight, as every run writes it."
            )
            return []

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each reward by the name it is logged under."""
        return {reward_key(reward.name): reward.weight for reward in self.mix}

    def trained_rewards(self) -> dict[str, list[str]]:
        """Return, by task, the names of the rewards with a positive weight.

        A task that was only measured has no entry: nothing was trained on it, whatever the mix
        could have scored.
        """
        trained = [reward for reward in self.mix if reward.weight > 0]
        tasks = self.config.get("tasks", list(TASKS)) if self.config else []
        return {task: [r.name for r in trained if r.tasks is None or task in r.tasks] for task in tasks}

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """``manifest.json``."""
        return self._object(self.path / "manifest.json", lacking="command, versions and hardware are unknown")

    @property
    def catalogue_fingerprint(self) -> Any:
        """The fingerprint of the catalogue of the run; None where it is not recorded."""
        return section(self.manifest, "data").get("fingerprint")

    @property
    def failures(self) -> list[str]:
        """What failed in the run, in sentences: evaluations, and rewards while training."""
        evaluations = self.manifest.get("evaluation_failures")
        return [
            *(f"An evaluation failed: {failure}" for failure in (evaluations if isinstance(evaluations, list) else [])),
            *(
                f"The reward {name} failed {count} times while training; those completions were unscored."
                for name, count in section(self.manifest, "reward_errors").items()
            ),
        ]

    @cached_property
    def steps(self) -> list[Mapping[str, Any]]:
        """The rows of ``metrics.jsonl`` by step; of a step that was logged again, the later one."""
        path = self.path / "metrics.jsonl"
        try:
            lines = list(json_lines(io.BytesIO(read_own(path, folder=self.path))))
        except OSError as error:
            self._absent(path, error, lacking="there are no training curves")
            return []
        steps = {
            step: line.values for line in lines if line.values and (step := finite(line.values.get("step"))) is not None
        }
        broken = sum(line.values is None for line in lines)
        if broken and self._notes is not None:  # a kill cuts the last line short: no error
            were = "line could not be read and was" if broken == 1 else "lines could not be read and were"
            self._notes.append(f"metrics.jsonl: {broken} {were} left out.")
        return [steps[step] for step in sorted(steps)]

    @cached_property
    def suite(self) -> str:
        """The suite that checkpoints were evaluated on."""
        named = self._suite or str(self._comparison_json.get("suite", "cqbench"))
        return named if named == Path(named).name else "cqbench"

    @cached_property
    def evaluations(self) -> dict[str, Path]:
        """The folders of finished evaluations by checkpoint, see ``checkpoint_order``."""
        folders: dict[str, Path] = {}
        for path in self.path.glob(f"evaluations/*/{self.suite}/{SUMMARY_FILE}"):
            name = path.parent.parent.name
            try:
                check_own(path, folder=self.path)
                folders[name] = path.parent
            except OSError as error:
                self._absent(path, error, lacking=f"the evaluation of {name} is left out")
        if not folders and self._notes is not None:
            self._notes.append(f"No evaluation of {self.suite} was found under evaluations/.")
        return {name: folders[name] for name in sorted(folders, key=checkpoint_order)}

    @cached_property
    def summaries(self) -> dict[str, Mapping[str, Any]]:
        """The summaries of evaluations that can be read, in their order."""
        return {name: summary for name in self.evaluations if (summary := self.summary(name))}

    def summary(self, checkpoint: str) -> Mapping[str, Any]:
        """Return ``summary.json`` of a checkpoint's evaluation, empty where there is none."""
        if checkpoint not in self.evaluations:
            return {}
        lacking = f"the evaluation of {checkpoint} is left out of the curves"
        return self._object(self.evaluations[checkpoint] / SUMMARY_FILE, lacking=lacking)

    def samples(self, checkpoint: str) -> Path:
        """Return the path of a checkpoint's samples, whose reader looks at where it leads."""
        return self.path / "evaluations" / _plain_name(checkpoint) / self.suite / SAMPLES_FILE

    @cached_property
    def image_folders(self) -> list[Path]:
        """Where the run's images may lie: in its own folder and in that of its catalogue.

        A catalogue is looked for where ``config.yaml`` names it, and where it lies if it was moved
        together with the run. That of nano is in the cache.
        """
        named, run_dir = section(self.config, "data").get("catalogue"), self.config.get("run_dir")
        if named == NANO_CATALOGUE:
            return [self.path, cache_folder("nano-catalogue")]
        places = [Path(str(named))] if named else []
        if named and run_dir and Path(str(named)).is_absolute() == Path(str(run_dir)).is_absolute():
            beside = self.path.resolve() / os.path.relpath(str(named), str(run_dir))
            places.append(Path(os.path.normpath(beside)))
        return [self.path, *(place for place in places if any(place.glob("items.*")))]

    @property
    def latest(self) -> str | None:
        """The last evaluated checkpoint, see ``checkpoint_order``; None without any."""
        return next(reversed(self.evaluations), None)

    @cached_property
    def best(self) -> Best | None:
        """The best checkpoint, as ``best.json`` holds it; None where none was chosen."""
        try:
            best = Best(**json.loads(read_own(self.path / "best.json", folder=self.path)))
            _plain_name(best.checkpoint)
            return best
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            self.report(f"best.json cannot be read ({error}); remove it to report the last checkpoint.")
            return None

    @property
    def reported(self) -> str | None:
        """The checkpoint that a run is judged by: the best one, else the latest evaluated one."""
        return self.best.checkpoint if self.best is not None else self.latest

    @cached_property
    def comparison(self) -> Comparison | None:
        """``comparison.json``; None where there is none."""
        if not self._comparison_json:
            return None
        try:
            comparison = Comparison.from_json(self._comparison_json)
            for name in (comparison.before, comparison.after, comparison.suite):
                _plain_name(name)
            return comparison
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.report(f"comparison.json is not a comparison ({type(error).__name__}: {error}); nothing is compared.")
            return None

    @cached_property
    def _comparison_json(self) -> Mapping[str, Any]:
        return self._object(self.path / "comparison.json", lacking="nothing is compared")

    @cached_property
    def rollout_files(self) -> list[Path]:
        """The recorded rollouts by step and, within a step, by generation batch."""
        paths = (self.path / "rollouts").glob("*.parquet")
        named = {path: match for path in paths if (match := _ROLLOUTS.fullmatch(path.name))}
        return sorted(named, key=lambda path: (int(named[path][1]), int(named[path][2] or 1)))

    def rollouts_since(self, step: int) -> dict[int, Path]:
        """Return the first file of every step from one on, in order, as they are now.

        A run that goes on has more of them at every call, and listing all takes long.
        """
        try:
            with os.scandir(self.path / "rollouts") as entries:
                names = [entry.name for entry in entries if entry.name >= f"step-{step:06d}"]
        except OSError:
            return {}
        steps = {int(match[1]): name for name in names if (match := _ROLLOUTS.fullmatch(name)) and not match[2]}
        return {step: self.path / "rollouts" / steps[step] for step in sorted(steps)}

    def _text(self, path: Path, *, lacking: str) -> str | None:
        try:
            return read_own(path, folder=self.path).decode()
        except (OSError, UnicodeDecodeError) as error:
            self._absent(path, error, lacking=lacking)
            return None

    def _object(self, path: Path, *, lacking: str) -> Mapping[str, Any]:
        text = self._text(path, lacking=lacking)
        try:
            content = {} if text is None else json.loads(text)
        except ValueError as error:
            self.report(f"{path.name} is not valid JSON ({error}): {lacking}.")
            return {}
        if not isinstance(content, dict):
            self.report(f"{path.name} holds a {type(content).__name__}, expected an object: {lacking}.")
            return {}
        return content

    def _absent(self, path: Path, error: Exception, *, lacking: str) -> None:
        if not isinstance(error, FileNotFoundError):
            self.report(f"{path.name} cannot be read ({error}): {lacking}.")
        elif self._notes is not None:
            self._notes.append(f"{path.name} is missing: {lacking}.")

    def report(self, sentence: str, *, is_missing: bool = False) -> None:
        """Note what is broken or missing, or raise it where nobody takes notes."""
        if self._notes is None:
            raise EvaluationError(f"{self.path}: {sentence.rstrip('.')}")
        if sentence not in self._notes:
            self._notes.append(sentence)
            self.broken += [] if is_missing else [sentence]


def _plain_name(name: str) -> str:
    """Return the name of a folder inside the run.

    Raises:
        ValueError: It leads elsewhere, as one in a stranger's file may.
    """
    if name != Path(name).name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not the name of a folder in the run")
    return name


def checkpoint_order(name: str) -> tuple[int, int, str]:
    """Return a checkpoint's sort key: base, checkpoint-N by N, final; controls come first."""
    number = re.fullmatch(r"checkpoint-(\d+)", name)
    if number:
        return (2, int(number[1]), name)
    return ({"base": 1, "final": 3}.get(name, 0), 0, name)


def finite(value: Any) -> float | None:
    """Return a JSON value as a number; None for anything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
