"""The results of an ablation's runs: evaluations, costs, and whether mixes saw the same data."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from grpo_mmpc.ablation.grid import PlannedRun
from grpo_mmpc.ablation.jobs import Job, State, state_of
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.evaluation_folder import Evaluation, read_evaluation
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.utils.files import read_json_lines
from grpo_mmpc.utils.parquet import open_parquet
from grpo_mmpc.utils.processes import log_tail

UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A job that has no result."""

    name: str
    state: str
    """A ``jobs.State``, or ``unreadable``."""
    tail: str
    """The last lines of its log, empty if it never ran; the reason, if it is unreadable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The time that one run took."""

    wall_s: float | None
    """Sum over attempts; None without any. One that was killed together with the ablation is not
    counted."""
    training_s: float | None
    """Sum over steps; None without logged steps."""
    tokens_per_s: float | None
    """Completion tokens by ``training_s``; steps that reuse rollouts take time and sample none."""
    reward_s: float | None
    """Sum over steps of the time that the trainer waited for rewards; None without logged steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One finished run."""

    mix: str
    seed: int
    folder: Path
    evaluation: Evaluation
    rewards: Mapping[str, Sequence[str]]
    """By task, rewards with a positive weight."""
    steps: Sequence[Mapping[str, Any]]
    """Rows of ``metrics.jsonl``."""
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All results of an ablation's folder."""

    runs: list[RunResult]
    base: Mapping[str, Evaluation]
    """Evaluation of the untrained model, by mix."""
    missing: list[Missing]
    data_order: Mapping[int, str | None]
    """By seed: empty if all mixes saw the same prompts in every step, else where they first differ;
    None where that could not be checked, with one mix only or without rollouts."""

    def of(self, mix: str) -> list[RunResult]:
        """Return the runs of a mix, by seed."""
        return sorted((run for run in self.runs if run.mix == mix), key=lambda run: run.seed)


def collect(planned: Sequence[PlannedRun], jobs: Sequence[Job]) -> Results:
    """Read whatever has finished; everything else is listed as missing."""
    by_name = {run.name: run for run in planned}
    runs: list[RunResult] = []
    missing: list[Missing] = []
    untrained: dict[str, Evaluation] = {}  # one object for all mixes that share it
    for job in jobs:
        state = state_of(job)
        if state != State.FINISHED:
            missing.append(Missing(name=job.name, state=state, tail=log_tail(job.log)))
            continue
        try:
            if job.is_base:
                untrained[job.name] = read_evaluation(job.final)
            else:
                runs.append(_result(by_name[job.name], job))
        except EvaluationError as error:
            missing.append(Missing(name=job.name, state=UNREADABLE, tail=str(error)))
    base = {by_name[job.name].mix: untrained[job.base] for job in jobs if job.base in untrained}
    return Results(runs=runs, base=base, missing=missing, data_order=_data_order(runs))


def prompts_by_step(run_dir: Path) -> dict[str, list[str]]:
    """Read the prompt ids of every rollout file, in the order in which they were sampled."""
    files = RunFolder(run_dir).rollout_files
    tables = {file.stem: open_parquet(file, folder=run_dir).read(["prompt_id"]) for file in files}
    return {step: table["prompt_id"].to_pylist() for step, table in tables.items()}


def _result(run: PlannedRun, job: Job) -> RunResult:
    folder = RunFolder(job.folder)
    return RunResult(
        mix=run.mix,
        seed=run.seed,
        folder=job.folder,
        evaluation=read_evaluation(job.final),
        rewards=folder.trained_rewards(),
        steps=folder.steps,
        cost=_cost(folder.steps, read_json_lines(job.attempts, skip_broken=True) if job.attempts.is_file() else []),
    )


def _cost(steps: Sequence[Mapping[str, Any]], attempts: Sequence[Mapping[str, Any]]) -> Cost:
    logged = [0, *(int(row["step"]) for row in steps)]
    # Of each row the seconds of all steps since the last one, where ``step_time`` is their mean.
    spans = [
        (row, (step - before) * float(row["step_time"]))
        for row, (before, step) in zip(steps, pairwise(logged), strict=True)
        if row.get("step_time") is not None
    ]
    training_s = sum(seconds for _, seconds in spans)

    def total(rate: str) -> float | None:
        """Sum over steps of what is logged per second; None where it was not logged."""
        amounts = [float(row[rate]) * seconds for row, seconds in spans if row.get(rate) is not None]
        return sum(amounts) if amounts else None

    tokens = total("tokens_per_second")
    return Cost(
        wall_s=sum(float(row["seconds"]) for row in attempts) if attempts else None,
        training_s=training_s if spans else None,
        tokens_per_s=None if tokens is None or not training_s else tokens / training_s,
        reward_s=total("reward_time/wait_share"),
    )


def _data_order(runs: Sequence[RunResult]) -> dict[int, str | None]:
    by_seed: dict[int, list[RunResult]] = defaultdict(list)
    for run in runs:
        by_seed[run.seed].append(run)
    order: dict[int, str | None] = {}
    for seed, group in by_seed.items():
        first, *others = [(run, prompts_by_step(run.folder)) for run in group]
        if not others or not all(prompts for _, prompts in (first, *others)):
            order[seed] = None
            continue
        differing = [
            f"{first[0].mix} and {run.mix} at {step}"
            for run, prompts in others
            for step in [next((s for s in first[1] if prompts.get(s) != first[1][s]), None)]
            if step is not None
        ]
        order[seed] = differing[0] if differing else ""
    return order
