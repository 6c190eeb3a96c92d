"""The two users of a vLLM: a trainer that wants tokens, and an evaluation that wants text."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from grpo_mmpc.encoders.images import image_key
from grpo_mmpc.errors import RolloutError, first_line
from grpo_mmpc.rollout.adapter_sync import sync_policy
from grpo_mmpc.rollout.engine import deal_over_ranks
from grpo_mmpc.rollout.prompts import refusal
from grpo_mmpc.rollout.vllm.ahead import SampledAhead
from grpo_mmpc.rollout.vllm.protocol import Completion, GroupEngine, GroupOutput, Prompt
from grpo_mmpc.rollout.vllm.requests import check_prompt_ids, derived_seed, prompt_of
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.distributed import ONE, Ranks
from grpo_mmpc.utils.single_out import Failure, Raised

ROWS_AT_ONCE = 256
"""Prompts of an evaluation handed to the engine of a rank together."""


@dataclass(eq=False)
class VLLMRollouts:
    """The ``vllm_generation`` of a ``GRPOTrainer``: syncs weights and generates.

    TRL's own class pushes the merged full weights. This one sends the adapter and nothing else,
    asks for a group as one request, and compares the prompt that the engine used with the trainer's
    in every call.
    """

    engine: GroupEngine
    model: Any
    """The trainer's policy: a ``PeftModel``, or a whole model."""
    sampling: SamplingConfig
    """That of rollouts; its ``seed`` is the run's."""
    rank: int = field(kw_only=True)
    """Ranks sample with different seeds."""
    step: Callable[[], int] = field(kw_only=True)
    """The trainer's current step, from which seeds are derived: a resumed run repeats them."""
    adapter: str | None = field(default=None, init=False)
    """Name of the adapter that the engine has now."""
    refused: dict[int, str] = field(default_factory=dict, init=False)
    """By row of the last call, why the engine did not take its prompt. What stands for such a
    completion is to be masked: one token of unknown probability."""
    conversations: Sequence[Any] = field(default=(), init=False)
    """Prompts of the next call as chat messages with images; set by the trainer."""
    ahead: SampledAhead | None = field(default=None, kw_only=True)
    """Samples the next step's completions while this step is learned from."""
    _calls: tuple[int, int] = field(default=(-1, 0), init=False)
    """A step, and the calls in it so far."""
    _syncs: int = field(default=0, init=False)

    def sync_weights(self) -> None:
        """Send the policy, see ``sync_policy``; a collective under ZeRO-3 and FSDP."""
        if self.ahead is not None:
            self.ahead.finish()  # it is sampled from the adapter that is unloaded now
        self._syncs += 1
        self.adapter = sync_policy(self.engine, self.model, name=f"policy-{self._syncs}", previous=self.adapter)

    def generate(
        self,
        prompts: list[list[int]],
        images: list[list[Any] | None] | None,
        num_generations: int,
        profiler: AbstractContextManager[Any] | None = None,
    ) -> tuple[list[list[int]], list[list[int]], list[list[list[float]]], None]:
        """Return completions of this rank's prompts, in TRL's shapes.

        Args:
            prompts: Token ids, one list per completion: the prompts of a group stand side by side.
            images: Images of each prompt, or None.
            num_generations: TRL's group size; a group may be split over ranks, so runs of equal
                prompts count instead.
            profiler: Wraps the engine's call.

        Returns:
            ``(prompt_ids, completion_ids, logprobs, None)``; ``logprobs`` is
            ``[completion][token][1]``.

        Raises:
            RolloutError: The engine used another prompt than the trainer.
        """
        step = self.step()
        calls = self._calls[1] + 1 if self._calls[0] == step else 0
        self._calls = (step, calls)
        groups = self._groups(prompts, images, self.conversations, call=(step, calls))
        with profiler or nullcontext():
            results = None if self.ahead is None else self.ahead.take(groups)
            if results is None:
                results = self._sample(groups)
        if self.ahead is not None and (upcoming := self.ahead.upcoming()) is not None:
            following = self._groups(*upcoming, call=(step + 1, 0))
            self.ahead.begin(following, partial(self._sample, following))
        outputs: list[GroupOutput] = []
        self.refused = {}
        for group, output in zip(groups, results, strict=True):
            if isinstance(output, Failure):
                first = sum(len(earlier.completions) for earlier in outputs)
                self.refused |= dict.fromkeys(range(first, first + group.count), output.reason)
                nothing = Completion(token_ids=group.token_ids[-1:], logprobs=[math.nan])
                output = GroupOutput(prompt_ids=group.token_ids, completions=[nothing] * group.count)
            check_prompt_ids(group.token_ids, output.prompt_ids)
            outputs.append(output)
        completions = [completion for output in outputs for completion in output.completions]
        if len(completions) != len(prompts):
            raise RolloutError(f"the engine returned {len(completions)} completions for {len(prompts)} prompts")
        return (
            [output.prompt_ids for output in outputs for _ in output.completions],
            [completion.token_ids for completion in completions],
            [[[logprob] for logprob in completion.logprobs] for completion in completions],
            None,
        )

    def _sample(self, groups: Sequence[Prompt]) -> list[GroupOutput | Failure]:
        return self.engine.generate(groups, self.sampling, adapter=self.adapter)

    def _groups(
        self,
        prompts: list[list[int]],
        images: list[list[Any] | None] | None,
        conversations: Sequence[Any],
        *,
        call: tuple[int, int],
    ) -> list[Prompt]:
        if len(conversations) != len(prompts):
            raise RolloutError(f"{len(prompts)} prompts but {len(conversations)} conversations")
        shown = images or [None] * len(prompts)
        known = {id(image): image for some in shown for image in some or ()}  # a group shares its image
        hashes = {each: image_key(image) for each, image in known.items()}
        keys = [(ids, [hashes[id(image)] for image in some or ()]) for ids, some in zip(prompts, shown, strict=True)]
        starts = [row for row in range(len(prompts)) if row == 0 or keys[row] != keys[row - 1]]
        return [
            Prompt(
                token_ids=prompts[start],
                conversation=conversations[start],
                count=end - start,
                seed=derived_seed(self.sampling.seed, *call, self.rank, index),
            )
            for index, (start, end) in enumerate(zip(starts, [*starts[1:], len(prompts)], strict=True))
        ]


@dataclass
class VLLMEngine:
    """Implements ``Engine`` for evaluation by the same vLLM, with an adapter or without."""

    engine: GroupEngine
    processor: Any
    adapter: str | None = field(kw_only=True)
    """Name of a loaded adapter; None is the base model."""
    ranks: Ranks = field(default=ONE, kw_only=True)
    """Those that share the rows."""

    @property
    def rows_at_once(self) -> int:
        """``ROWS_AT_ONCE`` on every rank."""
        return ROWS_AT_ONCE * self.ranks.count

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str | Failure]:
        """See ``Engine.generate``."""
        return deal_over_ranks(rows, lambda mine: self._generate_on_this_rank(mine, sampling), self.ranks)

    def _generate_on_this_rank(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str | Failure]:
        results: list[str | Failure] = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            prompts = [
                self._prompt(row, seed=derived_seed(sampling.seed, start + index, self.ranks.rank))
                for index, row in enumerate(rows[start : start + ROWS_AT_ONCE])
            ]
            taken = [prompt for prompt in prompts if isinstance(prompt, Prompt)]
            outputs = iter(self.engine.generate(taken, sampling, adapter=self.adapter))
            for prompt in prompts:
                result = next(outputs) if isinstance(prompt, Prompt) else prompt
                if isinstance(result, GroupOutput) and isinstance(prompt, Prompt):
                    check_prompt_ids(prompt.token_ids, result.prompt_ids)
                    token_ids = result.completions[0].token_ids
                    results.append(str(self.processor.decode(token_ids, skip_special_tokens=True)))
                elif isinstance(result, Failure):
                    results.append(result)
        return results

    def _prompt(self, row: PromptRow, *, seed: int) -> Prompt | Failure:
        try:
            return prompt_of(row, self.processor, count=1, seed=seed)
        except Exception as error:  # processors of others raise anything at all
            return refusal(row, self.processor, max_tokens=0, context=None) or Raised(reason=first_line(error))
