"""What a run folder holds, read forgivingly: a missing or broken file becomes a note on the page, never a crash."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.evaluation.records import Comparison
from grpo_mmpc.evaluation.run_folder import RunFolder, checkpoint_order
from grpo_mmpc.recbench import results_of_run


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
    run = RunFolder(folder, notes=notes)
    if run.manifest and not run.manifest.get("finished"):
        notes.append("The run has not finished: manifest.json has no time of finishing.")
    failures = run.manifest.get("evaluation_failures")
    if isinstance(failures, list):
        notes += [f"An evaluation failed: {failure}" for failure in failures]
    notes += [
        f"The reward {name} failed {count} times while training; those completions were unscored."
        for name, count in section(run.manifest, "reward_errors").items()
    ]
    comparison, reported = run.comparison, run.reported
    if comparison and reported and checkpoint_order(reported) > checkpoint_order(comparison.after):
        notes.append(
            f"The comparison ends at {comparison.after}, but {reported} has been evaluated since; "
            f"grpo-mmpc report {folder} brings it up to date."
        )
    return RunFiles(
        folder=folder,
        suite=run.suite,
        config_text=run.config_text,
        config=run.config,
        manifest=run.manifest,
        steps=run.steps,
        comparison=comparison,
        summaries=run.summaries,
        recommendation=_recommendation(folder, notes),
        notes=notes,
    )


def _recommendation(folder: Path, notes: list[str]) -> Mapping[str, Any] | None:
    results, problems = results_of_run(folder)
    notes += [f"A recommendation benchmark is left out: {problem}." for problem in problems]
    return results


def section(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A sub-mapping, empty where there is none."""
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}


def finite(value: Any) -> float | None:
    """A JSON value as a number; None for anything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
