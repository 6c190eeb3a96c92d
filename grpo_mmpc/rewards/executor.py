"""The executor: it runs the rewards of a mix side by side, each under a time limit."""

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
from grpo_mmpc.rewards.isolated import InProcess
from grpo_mmpc.rewards.loading import LoadedReward
from grpo_mmpc.rewards.worker import Columns, Fit, Host, Message, Prepare, Reply, Score, Worker, explained

logger = logging.getLogger(__name__)

LEAK_BYTES = 512 * 2**20
"""Growth of memory over calls of one reward, the first one left out, that is worth a warning."""
LARGEST = 1e12
"""Largest value of a reward: TRL computes in float32, where with a weight of up to 1e6 the squares
of larger ones overflow and all advantages become 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of the well-formed completions that one reward was asked about."""

    values: list[float | None]
    """None = unscored."""
    failed: int
    """Number of them that are unscored because something went wrong."""
    seconds: float
    """Duration of its own call, beside which others may have run."""


class RewardExecutor:
    """The caller of all rewards, which lives as long as the run.

    Every reward has a thread of its own, or a process if its spec says ``isolated``, so that those
    that wait for an encoder, a GPU or a server overlap. A thread cannot be stopped: a reward that
    hangs in one stays unscored until it comes back.
    """

    def __init__(
        self, rewards: Sequence[LoadedReward], *, on_error: Literal["raise", "unscored"], time_limit: float
    ) -> None:
        self._rewards = {reward.name: reward for reward in rewards}
        self._on_error = on_error
        self._limits = {reward.name: reward.spec.time_limit or time_limit for reward in rewards}
        self._workers = {
            reward.name: Worker(reward.name, InProcess(reward.spec) if reward.spec.isolated else Host(reward.fn))
            for reward in rewards
        }
        self.errors: dict[str, int] = defaultdict(int)
        """Completions that a reward failed on, by reward name."""
        self._logged: set[tuple[str, str]] = set()
        self._grown: dict[str, int] = {}
        self._has_begun = False

    def fit(self, titles: Sequence[str], images: Sequence[str]) -> None:
        """Give every reward that asks for a corpus that of the training items, and wait.

        Raises:
            RewardError: A reward failed on them.
        """
        waiting = {
            name: self._submit(name, Fit(titles, images))
            for name, reward in self._rewards.items()
            if reward.asks_for_corpus
        }
        what = "the titles or images of the training items"
        for name, future in waiting.items():
            limit = self._limits[name]
            try:
                answer = future.result(timeout=limit)
            except FutureTimeout:
                raise RewardError(f"reward {name!r} took longer than its time limit of {limit:g} s on {what}") from None
            if answer.error is not None:
                raise RewardError(f"reward {name!r} failed on {what}: {_reason(answer.error)}") from answer.error

    def prepare(self, columns: Columns) -> None:
        """Let rewards with ``prepare`` encode what is known already; returns at once.

        Completions that are done already are scored, and the scores thrown away: what counts is
        what the encoders remember. A reward that is still busy is left alone, and one that fails
        here fails again when it scores, where that is handled.

        Args:
            columns: Keyword lists; ``predictions`` and ``completions`` are absent before the first
                completion is done.
        """
        message = Score if "predictions" in columns else Prepare
        for name, reward in self._rewards.items():
            rows = [i for i, task in enumerate(columns["tasks"]) if task in reward.tasks]
            if reward.prepare is not None and rows and not self._workers[name].busy:
                self._submit(name, message({key: [column[i] for i in rows] for key, column in columns.items()}))

    def score(self, batches: Mapping[str, Columns]) -> dict[str, Scores]:
        """Score with all rewards side by side.

        Args:
            batches: By reward name, the keyword lists it is called with; rewards without a
                completion to score are absent.

        Raises:
            RewardError: A reward broke its contract and the policy is ``raise``; names the reward.
        """
        start = time.monotonic()
        # Each gets lists of its own, which it may empty. Rewards that are still preparing are
        # waited for; one that hung in an earlier batch is not asked again.
        futures = {
            name: self._submit(name, Score({key: list(column) for key, column in columns.items()}))
            for name, columns in batches.items()
            if not self._workers[name].hung
        }
        scores: dict[str, Scores] = {}
        for name, columns in batches.items():
            answer = self._wait(name, futures[name], start=start) if name in futures else _STILL_BUSY
            values, failed, problem = _checked(answer, expected=len(columns["completions"]))
            if problem is not None:
                self._fail(name, problem, failed)
            self._watch_agreement(name, columns, values)
            scores[name] = Scores(values=values, failed=failed, seconds=answer.seconds)
        for name in batches:
            self._watch_memory(name)
        return scores

    def close(self) -> None:
        """End the processes of isolated rewards."""
        for worker in self._workers.values():
            worker.host.end()

    def _submit(self, name: str, message: Message) -> "Future[Reply]":
        if not self._has_begun:
            self._has_begun = True
            _import_for_threads(reward for reward in self._rewards.values() if not reward.spec.isolated)
        return self._workers[name].submit(message)

    def _wait(self, name: str, future: "Future[Reply]", *, start: float) -> Reply:
        limit = self._limits[name]
        try:
            return future.result(timeout=max(0.0, start + limit - time.monotonic()))
        except FutureTimeout:
            self._workers[name].give_up(future)
            error = RewardError(f"took longer than its time limit of {limit:g} s")
            return Reply(error=error, seconds=time.monotonic() - start)

    def _fail(self, name: str, problem: Exception, count: int) -> None:
        text = _reason(problem)
        if self._on_error == "raise":
            raise RewardError(
                f"reward {name!r} failed on {count} completions: {text}. "
                "Fix the reward, or set rewards.on_error=unscored to count such completions as unscored"
            ) from problem
        self.errors[name] += count
        if (name, text) not in self._logged and len(self._logged) < 100:
            self._logged.add((name, text))
            logger.error(
                "reward %r failed on %d completions, which count as unscored: %s", name, count, text, exc_info=problem
            )

    def _watch_agreement(self, name: str, columns: Columns, values: Sequence[float | None]) -> None:
        """Warn once of a reward that gives two values to equal completions of a prompt."""
        if (name, "random") in self._logged:
            return
        seen: dict[tuple[Any, str], float | None] = {}
        for prompt, completion, value in zip(columns["prompt_id"], columns["completions"], values, strict=True):
            other = seen.setdefault((prompt, completion), value)
            if other is not None and value is not None and not math.isclose(other, value, rel_tol=1e-4, abs_tol=1e-4):
                self._logged.add((name, "random"))
                logger.warning(
                    "reward %r is not deterministic: it gave %g and %g to the same completion of %s (%.60s); "
                    "its randomness is trained on as if it were signal",
                    *(name, other, value, prompt, completion),
                )
                return

    def _watch_memory(self, name: str) -> None:
        """Warn of a reward under which memory grows; end its process, if it has one."""
        worker = self._workers[name]
        growth = worker.take_growth()
        # The first call loads what the reward needs; what is given back is taken off.
        self._grown[name] = max(0, self._grown[name] + growth) if name in self._grown else 0
        if self._grown[name] <= LEAK_BYTES:
            return
        self._grown[name] = 0
        what = "while it ran, perhaps by a reward that ran beside it; isolated: true tells them apart"
        if worker.host.is_process:
            worker.host.end()
            what = "in its process, which was ended and starts again with the next batch"
        logger.warning("reward %r: memory has grown by more than %d MB %s", name, LEAK_BYTES >> 20, what)


_STILL_BUSY = Reply(error=RewardError("is still busy with an earlier batch"))


def _import_for_threads(rewards: Iterable[LoadedReward]) -> None:
    """Import what the rewards of this process need, before their threads do.

    Threads that import torch or Transformers at once see half of them.
    """
    needs = {word for reward in rewards for word in getattr(reward.fn, "needs", ()) or ()}
    if needs & {"encoder", "renderer", "tokenizer"}:
        from grpo_mmpc.utils.cpu_compat import ensure_importable

        ensure_importable()
        # heavy: only where a reward will import them
        import torch  # noqa: F401
        import transformers  # noqa: F401


def _checked(answer: Reply, *, expected: int) -> tuple[list[float | None], int, Exception | None]:
    """Return values, how many of them are None for a failure, and the failure."""
    problem = answer.error
    if problem is None:
        try:
            return checked_scores(answer.value, expected=expected)
        except (RewardError, TypeError, ValueError, OverflowError) as error:
            problem = error
    return [None] * expected, expected, problem


def checked_scores(scores: Any, *, expected: int) -> tuple[list[float | None], int, RewardError | None]:
    """Return scores as floats or None, how many TRL cannot take, and the first such error.

    NaN, infinity and what is larger than ``LARGEST`` become None as well.

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
        if value is not None and not abs(value) <= LARGEST:
            problem = problem or RewardError(
                f"returned {value} at position {position}, expected a number from -{LARGEST:g} to {LARGEST:g} or None"
            )
            failed += 1
            value = None
        checked.append(value)
    return checked, failed, problem


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, RewardError) else explained(error)
