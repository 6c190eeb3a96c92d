"""What a run folder holds, read forgivingly: a missing or broken file becomes a note on the page, never a crash."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.checkpoints import checkpoint_order, latest_checkpoint
from grpo_mmpc.evaluation.comparison import reported_checkpoint
from grpo_mmpc.evaluation.records import Comparison
from grpo_mmpc.recbench import results_of_run
from grpo_mmpc.reports.common.labels import plural


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """The files of one run that the report shows."""

    folder: Path
    suite: str
    config_text: str | None
    """``config.yaml`` word for word."""
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    steps: list[Mapping[str, Any]]
    """Rows of ``metrics.jsonl`` that have a step, in order of the step."""
    comparison: Comparison | None
    summaries: Mapping[str, Mapping[str, Any]]
    """``summary.json`` by checkpoint, base first."""
    recommendation: Mapping[str, Any] | None
    """``results.json`` of the recommendation benchmark that compares most policies."""
    notes: list[str]
    """What is missing or could not be read, as sentences."""

    def samples(self, checkpoint: str) -> Path:
        """Where a checkpoint's samples are."""
        return self.folder / "evaluations" / checkpoint / self.suite / "samples.parquet"


def read_run(folder: Path) -> RunFiles:
    """Read whatever is there of ``config.yaml``, ``manifest.json``, ``metrics.jsonl``, evaluations and comparison."""
    notes: list[str] = []
    config_text = _read_text(folder / "config.yaml", notes, lacking="the configuration is unknown")
    comparison_json = _read_object(folder / "comparison.json", notes, lacking="nothing is compared")
    comparison = _comparison(comparison_json, notes)
    suite = str(comparison_json.get("suite", "cqbench"))
    manifest = _read_object(folder / "manifest.json", notes, lacking="command, versions and hardware are unknown")
    if manifest and not manifest.get("finished"):
        notes.append("The run has not finished: manifest.json has no time of finishing.")
    failures = manifest.get("evaluation_failures")
    if isinstance(failures, list):
        notes += [f"An evaluation failed: {failure}" for failure in failures]
    notes += [
        f"The reward {name} failed {count} times while training; those completions were unscored."
        for name, count in section(manifest, "reward_errors").items()
    ]
    summaries = _summaries(folder, suite, notes)
    reported = _reported(folder, suite, notes)
    if comparison and reported and checkpoint_order(reported) > checkpoint_order(comparison.after):
        notes.append(
            f"The comparison ends at {comparison.after}, but {reported} has been evaluated since; "
            f"grpo-mmpc report {folder} brings it up to date."
        )
    return RunFiles(
        folder=folder,
        suite=suite,
        config_text=config_text,
        config=_config(config_text, notes),
        manifest=manifest,
        steps=_steps(folder / "metrics.jsonl", notes),
        comparison=comparison,
        summaries=summaries,
        recommendation=_recommendation(folder, notes),
        notes=notes,
    )


def _recommendation(folder: Path, notes: list[str]) -> Mapping[str, Any] | None:
    results, problems = results_of_run(folder)
    notes += [f"A recommendation benchmark is left out: {problem}." for problem in problems]
    return results


def _reported(folder: Path, suite: str, notes: list[str]) -> str | None:
    try:
        return reported_checkpoint(folder, suite=suite)
    except EvaluationError as error:
        notes.append(f"{error}.")
        return latest_checkpoint(folder, suite=suite)


def section(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A sub-mapping, empty where there is none."""
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}


def finite(value: Any) -> float | None:
    """A JSON value as a number; None for anything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _read_text(path: Path, notes: list[str], *, lacking: str) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        notes.append(f"{path.name} is missing: {lacking}.")
    except (OSError, UnicodeDecodeError) as error:
        notes.append(f"{path.name} cannot be read ({error}): {lacking}.")
    return None


def _read_object(path: Path, notes: list[str], *, lacking: str) -> Mapping[str, Any]:
    text = _read_text(path, notes, lacking=lacking)
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except ValueError as error:
        notes.append(f"{path.name} is not valid JSON ({error}): {lacking}.")
        return {}
    if not isinstance(content, dict):
        notes.append(f"{path.name} holds a {type(content).__name__}, expected an object: {lacking}.")
        return {}
    return content


def _config(text: str | None, notes: list[str]) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        notes.append(f"config.yaml is not valid YAML ({' '.join(str(error).split())}); it is shown as it is.")
        return {}
    return content if isinstance(content, dict) else {}


def _comparison(content: Mapping[str, Any], notes: list[str]) -> Comparison | None:
    if not content:
        return None
    try:
        return Comparison.from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        notes.append(f"comparison.json is not a comparison ({type(error).__name__}: {error}); nothing is compared.")
        return None


def _steps(path: Path, notes: list[str]) -> list[Mapping[str, Any]]:
    text = _read_text(path, notes, lacking="there are no training curves")
    steps: dict[float, Mapping[str, Any]] = {}
    broken = 0
    for line in (text or "").splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            broken += 1
            continue
        step = finite(row.get("step")) if isinstance(row, dict) else None
        if step is not None:
            # A resumed run logs a step again: the later line is the one that counts.
            steps[step] = row
    if broken:
        notes.append(
            f"metrics.jsonl: {plural(broken, 'line')} could not be read and {'was' if broken == 1 else 'were'} left out."
        )
    return [steps[step] for step in sorted(steps)]


def _summaries(folder: Path, suite: str, notes: list[str]) -> dict[str, Mapping[str, Any]]:
    paths = {path.parent.parent.name: path for path in (folder / "evaluations").glob(f"*/{suite}/summary.json")}
    if not paths:
        notes.append(f"No evaluation of {suite} was found under evaluations/.")
    summaries = {}
    for name in sorted(paths, key=checkpoint_order):
        content = _read_object(paths[name], notes, lacking=f"the evaluation of {name} is left out of the curves")
        if content:
            summaries[name] = content
    return summaries
