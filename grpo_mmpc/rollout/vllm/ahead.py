"""Completions one step ahead of the update (``rollout.ahead: 1``).

While a step is scored and learned from, servers sample the next step's completions with the policy
that this step began with: off-policy by exactly one update, which importance-sampling correction
weighs by the log-probabilities of the policy that sampled.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.vllm.protocol import Completion, GroupOutput, Prompt
from grpo_mmpc.utils.single_out import Failure

logger = logging.getLogger(__name__)

Results = list[GroupOutput | Failure]
Batch = tuple[list[list[int]], list[list[Any] | None] | None, Sequence[Any]]
"""Token ids, images and chat messages of prompts, one per completion."""


@dataclass(eq=False)
class SampledAhead:
    """The completions of the next step: sampled in the background, taken once."""

    upcoming: Callable[[], Batch | None]
    """Returns this rank's prompts of the next step; None after the last one."""
    meet: Callable[[], None]
    """Waits for the other ranks."""
    staleness: int = field(default=0, init=False)
    """Updates between the policy that sampled the last completions and the one that learns from
    them: 1, or 0 where nothing was sampled ahead, as in the first step."""
    _next: tuple[list[list[int]], "Future[Results]"] | None = field(default=None, init=False)
    """Prompts and what becomes of them."""
    _background: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1), init=False)

    def begin(self, prompts: Sequence[Prompt], sample: Callable[[], Results]) -> None:
        """Begin to sample the next step's completions."""
        self._next = [prompt.token_ids for prompt in prompts], self._background.submit(sample)

    def take(self, prompts: Sequence[Prompt]) -> Results | None:
        """Return what was sampled for these prompts; None where that is nothing.

        Raises:
            RolloutError: It could not be sampled.
        """
        upcoming, self._next, self.staleness = self._next, None, 0
        if upcoming is None:
            return None
        expected, future = upcoming
        if expected != [prompt.token_ids for prompt in prompts]:
            logger.warning("this step has other prompts than were sampled ahead, whose completions are dropped")
            return None
        self.staleness = 1
        return future.result()

    def finish(self) -> None:
        """Wait until all ranks have sampled: the adapter is theirs no more. A collective."""
        if self._next is not None:
            wait([self._next[1]])
        self.meet()

    def state(self) -> list[dict[str, Any]]:
        """Return the next step's completions for a checkpoint, once they are there.

        Nothing where they could not be sampled: the step that needs them says so.
        """
        if self._next is None:
            return []
        prompts, future = self._next
        try:
            results = future.result()
        except RolloutError:
            return []
        return [
            {"prompt": ids, "refused": result.reason}
            if isinstance(result, Failure)
            else {"prompt": ids, "completions": [[c.token_ids, c.logprobs] for c in result.completions]}
            for ids, result in zip(prompts, results, strict=True)
        ]

    def go_on(self, state: Sequence[dict[str, Any]]) -> None:
        """Take up what a checkpoint has kept."""
        if not state:
            return
        future: Future[Results] = Future()
        future.set_result(
            [
                Failure(reason=group["refused"])
                if "refused" in group
                else GroupOutput(
                    prompt_ids=group["prompt"],
                    completions=[Completion(token_ids=ids, logprobs=logs) for ids, logs in group["completions"]],
                )
                for group in state
            ]
        )
        self._next = [group["prompt"] for group in state], future

    def close(self) -> None:
        """Wait for what is being sampled, and drop it."""
        self._background.shutdown(cancel_futures=True)
