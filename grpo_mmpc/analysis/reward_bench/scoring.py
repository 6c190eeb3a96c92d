"""The scores of all candidates by one reward at a time, its speed and its repeatability."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.analysis.reward_bench.results import Timing
from grpo_mmpc.config import RewardSpec
from grpo_mmpc.errors import GrpoMmpcError
from grpo_mmpc.rewards import RewardMix
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.jobs import Lost, run_queue, threads, worker_processes

BATCH = 64
_OTHER_BATCH = 17
_SAME = 1e-5
Scores = list[float | None]
Corpus = dict[str, list[str]]
"""The arguments of ``RewardMix.fit``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The completions and columns that a reward is called with."""

    completions: list[str]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.completions)

    def take(self, positions: Sequence[int]) -> "Batch":
        """Return some of them, in this order."""
        return Batch(
            completions=[self.completions[i] for i in positions],
            columns={name: [column[i] for i in positions] for name, column in self.columns.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scores of the candidates by one reward, with its declarations."""

    scores: Scores
    tasks: tuple[str, ...]
    value_range: tuple[float, float] | None
    timing: Timing


def score(spec: RewardSpec, batch: Batch, *, timed: Callable[[Sequence[str]], Batch], corpus: Corpus) -> Scored:
    """Time a reward, whose weight plays no part, then let it score.

    ``timed`` gives 64 completions of the tasks that it can score, with texts that it has not seen;
    ``corpus`` is for ``fit``.

    Raises:
        GrpoMmpcError: It cannot be built, or fails.
    """
    with closing(_alone(spec)) as mix:
        (reward,) = mix.rewards
        fresh = timed(reward.tasks)
        mix.fit(**corpus)
        loading, cold, warm = (_milliseconds(mix, part) for part in (fresh.take([0]), fresh, fresh))
        declared = getattr(reward.fn, "value_range", None)
        return Scored(
            scores=_in_batches(mix, batch, size=BATCH),
            tasks=reward.tasks,
            value_range=None if declared is None else (float(declared[0]), float(declared[1])),
            timing=Timing(cold=cold, warm=warm, loading=loading),
        )


def repeats(
    specs: Sequence[RewardSpec],
    batch: Batch,
    *,
    expected: Mapping[str, Scores],
    corpus: Corpus,
    progress: Progress,
) -> dict[str, bool | None]:
    """Return whether a fresh process gives the same scores, in reverse order and in other batches.

    A fresh one, because encoders remember texts, and because the order of sets differs between
    processes. The answer is by reward, None where the other process could not score; ``expected``
    are the scores by reward, ``corpus`` is for ``fit``.
    """
    backwards, same = batch.take(range(len(batch) - 1, -1, -1)), dict[str, bool | None]()

    def compare(spec: RewardSpec, scores: "Scores | Lost | None", _: bool) -> None:
        name = spec.key
        same[name] = all(map(_equal, expected[name], reversed(scores))) if isinstance(scores, list) else None

    def show(running: list[RewardSpec]) -> None:
        names = ", ".join(spec.key for spec in running)
        progress("scoring again in a second process", len(same), len(specs), detail=names)

    with worker_processes([threads(len(os.sched_getaffinity(0)))]) as submit:
        run_queue(
            specs,
            lambda spec, _: submit(0, _score_there, spec, backwards, corpus),
            slots=[None],
            ended=compare,
            show=show,
        )
    return same


def _score_there(spec: RewardSpec, batch: Batch, corpus: Corpus) -> Scores | None:
    logging.disable()
    try:
        with closing(_alone(spec)) as mix:
            mix.fit(**corpus)
            return _in_batches(mix, batch, size=_OTHER_BATCH)
    except GrpoMmpcError:
        return None


def _alone(spec: RewardSpec) -> RewardMix:
    return RewardMix.from_specs([spec.model_copy(update={"weight": 1.0})])


def _in_batches(mix: RewardMix, batch: Batch, *, size: int) -> Scores:
    (reward,) = mix.rewards
    scores: Scores = []
    for start in range(0, len(batch), size):
        part = batch.take(range(start, min(start + size, len(batch))))
        scores += mix.score(completions=part.completions, **part.columns).raw[reward.name]
    return scores


def _milliseconds(mix: RewardMix, batch: Batch) -> float:
    scored = mix.score(completions=batch.completions, **batch.columns)
    return 1000 * sum(scored.seconds.values())


def _equal(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else abs(one - other) <= _SAME
