"""What the runs of an ablation left on disk: evaluations, costs, and whether all mixes saw the same data."""

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
from grpo_mmpc.utils.processes import log_tail

UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A job that has no result."""

    name: str
    state: str
    """One of ``jobs.State``, or ``unreadable``."""
    tail: str
    """The last lines of its log, empty if it never ran; of one that is unreadable, why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one run took."""

    wall_s: float | None
    """Of all attempts that were seen to end; None if none was. One that was killed together with
    the ablation is not counted."""
    training_s: float | None
    """Sum over steps; None without logged steps."""
    tokens_per_s: float | None
    """Completion tokens by ``training_s``; steps that reuse rollouts take time and draw none."""
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
    """Everything that is there."""

    runs: list[RunResult]
    base: Mapping[str, Evaluation]
    """Evaluation of the untrained model, by mix."""
    missing: list[Missing]
    data_order: Mapping[int, str | None]
    """By seed: empty if all mixes saw the same prompts in every step, else where they first differ;
    None where that could not be checked, with one mix only or without rollouts."""

    def of(self, mix: str) -> list[RunResult]:
        """Runs of a mix, by seed."""
        return sorted((run for run in self.runs if run.mix == mix), key=lambda run: run.seed)


def collect(planned: Sequence[PlannedRun], jobs: Sequence[Job]) -> Results:
    """Read whatever has finished; everything else is listed as missing."""
    by_name = {job.name: job for job in jobs}
    keys = list(dict.fromkeys(run.base_key for run in planned))
    missing = [
        Missing(name=job.name, state=state, tail=log_tail(job.log))
        for job in jobs
        if (state := state_of(job)) != State.FINISHED
    ]
    absent = {job.name for job in missing}
    finished = [run for run in planned if run.name not in absent]
    # One object for all mixes that share it.
    untrained = {}
    for number, key in enumerate(keys):
        if f"base-{number}" not in absent:
            try:
                untrained[key] = read_evaluation(by_name[f"base-{number}"].final)
            except EvaluationError as error:
                missing.append(Missing(name=f"base-{number}", state=UNREADABLE, tail=str(error)))
    base = {run.mix: untrained[run.base_key] for run in planned if run.base_key in untrained}
    runs = []
    for run in finished:
        try:
            runs.append(_result(run, by_name[run.name]))
        except EvaluationError as error:
            missing.append(Missing(name=run.name, state=UNREADABLE, tail=str(error)))
    return Results(runs=runs, base=base, missing=missing, data_order=_data_order(runs))


def prompts_by_step(run_dir: Path) -> dict[str, list[str]]:
    """Prompt ids of every rollout file, in the order in which they were sampled."""
    import pyarrow.parquet as pq  # heavy: imported on use

    files = RunFolder(run_dir).rollout_files
    return {file.stem: pq.read_table(file, columns=["prompt_id"])["prompt_id"].to_pylist() for file in files}


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
        found = [float(row[rate]) * seconds for row, seconds in spans if row.get(rate) is not None]
        return sum(found) if found else None

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
    found: dict[int, str | None] = {}
    for seed, group in by_seed.items():
        first, *others = [(run, prompts_by_step(run.folder)) for run in group]
        if not others or not all(prompts for _, prompts in (first, *others)):
            found[seed] = None
            continue
        differing = [
            f"{first[0].mix} and {run.mix} at {step}"
            for run, prompts in others
            for step in [next((s for s in first[1] if prompts.get(s) != first[1][s]), None)]
            if step is not None
        ]
        found[seed] = differing[0] if differing else ""
    return found
