"""Runs the rewards of a mix side by side, each under a time limit, and says what went wrong with which."""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, Literal

from grpo_mmpc.errors import RewardError
from grpo_mmpc.rewards.loading import LoadedReward
from grpo_mmpc.rewards.workers import IsolatedWorker, ThreadWorker

logger = logging.getLogger(__name__)

LEAK_BYTES = 512 * 2**20
"""Growth of memory over calls of one reward, the first one left out, that is worth a warning."""

Columns = Mapping[str, list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one reward made of the well-formed completions it was asked about."""

    values: list[float | None]
    """None = unscored."""
    failed: int
    """How many of them are unscored because something went wrong."""
    seconds: float
    """How long its own call took, which others may have run beside."""


class RewardHost:
    """Calls rewards; lives as long as the run.

    Every reward has a thread of its own, or a process if its spec says ``isolated``, so that those
    that wait for an encoder, a GPU or a server overlap. A thread cannot be stopped: a reward that
    hangs in one stays unscored until it comes back.
    """

    def __init__(
        self, rewards: Sequence[LoadedReward], *, on_error: Literal["raise", "unscored"], time_limit: float
    ) -> None:
        self._rewards = list(rewards)
        self._on_error = on_error
        self._time_limit = time_limit
        self._workers = {
            reward.name: IsolatedWorker(reward.spec) if reward.spec.isolated else ThreadWorker(reward.name, reward.fn)
            for reward in rewards
        }
        self.errors: dict[str, int] = defaultdict(int)
        """Completions that a reward failed on, by reward name."""
        self._told: set[tuple[str, str]] = set()
        self._grown: dict[str, int] = {}

    def fit(self, titles: Sequence[str]) -> None:
        """Give every reward that asks for a corpus the titles of the training items, and wait for it.

        Raises:
            RewardError: A reward failed on them.
        """
        waiting = [(r.name, self._workers[r.name].submit("fit", titles)) for r in self._rewards if r.fit is not None]
        for name, future in waiting:
            try:
                future.result(timeout=self._limit(name))
            except FutureTimeout:
                raise RewardError(
                    f"reward {name!r} took longer than its time limit of {self._limit(name):g} s on the titles of the training items"
                ) from None
            except Exception as error:  # whatever a reward raises
                raise RewardError(
                    f"reward {name!r} failed on the titles of the training items: {_said(error)}"
                ) from error

    def prepare(self, columns: Columns) -> None:
        """Let rewards with ``prepare`` encode what is known before all completions are there; returns at once.

        Completions that are done already are scored, and the scores thrown away: what counts is
        what the encoders remember. A reward that is still busy is left alone, and one that fails
        here fails again when it scores, where that is handled.

        Args:
            columns: Keyword lists; ``predictions`` and ``completions`` are absent before the first
                completion is done.
        """
        for reward in self._rewards:
            rows = [i for i, task in enumerate(columns["tasks"]) if task in reward.tasks]
            worker = self._workers[reward.name]
            if reward.prepare is not None and rows and not worker.busy:
                action = "score" if "predictions" in columns else "prepare"
                worker.submit(action, {key: [column[i] for i in rows] for key, column in columns.items()})

    def score(self, batches: Mapping[str, Columns]) -> dict[str, Scores]:
        """Score, all rewards side by side.

        Args:
            batches: By reward name, the keyword lists it is called with; rewards without a
                completion to score are absent.

        Raises:
            RewardError: A reward broke its contract and the policy is ``raise``; names the reward.
        """
        start = time.monotonic()
        futures: dict[str, Future[Any] | RewardError] = {}
        for name, columns in batches.items():
            worker = self._workers[name]
            # Each gets lists of its own, which it may empty. Rewards that are still preparing are
            # waited for; one that hung in an earlier batch is not asked again.
            if worker.hung:
                futures[name] = RewardError("is still busy with an earlier batch")
            else:
                futures[name] = worker.submit("score", {key: list(column) for key, column in columns.items()})
        found: dict[str, Scores] = {}
        for name, columns in batches.items():
            expected = len(columns["completions"])
            values, failed, problem = self._outcome(name, futures[name], expected=expected, start=start)
            if problem is not None:
                self._fail(name, problem, failed)
            self._watch_agreement(name, columns, values)
            future = futures[name]
            seconds = None if isinstance(future, RewardError) else self._workers[name].seconds(future)
            if seconds is None:
                seconds = time.monotonic() - start
            found[name] = Scores(values=values, failed=failed, seconds=seconds)
        self._watch_memory(batches)
        return found

    def close(self) -> None:
        """End the processes of isolated rewards."""
        for worker in self._workers.values():
            worker.close()

    def _limit(self, name: str) -> float:
        spec = next(reward.spec for reward in self._rewards if reward.name == name)
        return spec.time_limit or self._time_limit

    def _outcome(
        self, name: str, future: "Future[Any] | RewardError", *, expected: int, start: float
    ) -> tuple[list[float | None], int, Exception | None]:
        """Values, how many of them are None for a failure, and the failure."""
        nothing: list[float | None] = [None] * expected
        if isinstance(future, RewardError):
            return nothing, expected, future
        limit = self._limit(name)
        try:
            scores = future.result(timeout=max(0.0, start + limit - time.monotonic()))
        except FutureTimeout as timeout:
            if future.done():  # the reward's own, of a server perhaps
                return nothing, expected, timeout
            self._workers[name].give_up(future)
            return nothing, expected, RewardError(f"took longer than its time limit of {limit:g} s")
        except Exception as error:  # whatever a reward raises is handled by the stated policy, and never becomes a 0
            return nothing, expected, error
        try:
            return checked_scores(scores, expected=expected)
        except (RewardError, TypeError, ValueError, OverflowError) as error:
            return nothing, expected, error

    def _fail(self, name: str, problem: Exception, count: int) -> None:
        text = _said(problem)
        if self._on_error == "raise":
            raise RewardError(
                f"reward {name!r} failed on {count} completions: {text}. "
                "Fix the reward, or set rewards.on_error=unscored to count such completions as unscored"
            ) from problem
        self.errors[name] += count
        if (name, text) not in self._told and len(self._told) < 100:
            self._told.add((name, text))
            logger.error(
                "reward %r failed on %d completions, which count as unscored: %s", name, count, text, exc_info=problem
            )

    def _watch_agreement(self, name: str, columns: Columns, values: Sequence[float | None]) -> None:
        """Equal completions of one prompt must have equal values: groups hold many, so that luck shows by itself."""
        if (name, "luck") in self._told:
            return
        seen: dict[tuple[Any, str], float | None] = {}
        for prompt, completion, value in zip(columns["prompt_id"], columns["completions"], values, strict=True):
            other = seen.setdefault((prompt, completion), value)
            if other is not None and value is not None and not math.isclose(other, value, rel_tol=1e-4, abs_tol=1e-4):
                self._told.add((name, "luck"))
                logger.warning(
                    "reward %r is not deterministic: it gave %g and %g to the same completion of %s (%.60s); "
                    "its luck is trained on like its judgement",
                    *(name, other, value, prompt, completion),
                )
                return

    def _watch_memory(self, names: Iterable[str]) -> None:
        """Say which rewards memory grows under."""
        for name in names:
            worker = self._workers[name]
            growth = worker.growth()
            # The first call loads what the reward needs; what is given back is taken off.
            self._grown[name] = max(0, self._grown[name] + growth) if name in self._grown else 0
            if self._grown[name] <= LEAK_BYTES:
                continue
            self._grown[name] = 0
            what = "while it ran, perhaps by a reward that ran beside it; isolated: true tells them apart"
            if isinstance(worker, IsolatedWorker):
                worker.close()
                what = "in its process, which was ended and starts again with the next batch"
            logger.warning("reward %r: memory has grown by more than %d MB %s", name, LEAK_BYTES >> 20, what)


def checked_scores(scores: Any, *, expected: int) -> tuple[list[float | None], int, RewardError | None]:
    """Scores as floats or None, how many are NaN or infinite (None as well), and the first of those as an error.

    Raises:
        RewardError: Not a sequence of ``expected`` numbers.
    """
    # Of a mapping the keys would be taken for scores; a set has no order.
    if isinstance(scores, str | bytes | Mapping | Set) or not isinstance(scores, Iterable):
        raise RewardError(f"returned {type(scores).__name__}, expected a list of {expected} numbers or None")
    scores = list(scores)
    if len(scores) != expected:
        raise RewardError(f"returned {len(scores)} scores for {expected} completions")
    checked: list[float | None] = []
    failed, problem = 0, None
    for position, score in enumerate(scores):
        if isinstance(score, str | bytes):
            raise RewardError(f"returned {score!r} at position {position}, expected a number or None")
        value = None if score is None else float(score)
        if value is not None and not math.isfinite(value):
            problem = problem or RewardError(
                f"returned {value} at position {position}, expected a finite number or None"
            )
            failed += 1
            value = None
        checked.append(value)
    return checked, failed, problem


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, RewardError) else f"{type(error).__name__}: {error}"
