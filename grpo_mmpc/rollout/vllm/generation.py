"""The two users of a vLLM engine: TRL's trainer, which wants token ids and log-probs, and evaluation, which wants text."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.adapter import read_adapter
from grpo_mmpc.rollout.transformers_engine import conversation
from grpo_mmpc.rollout.vllm.protocol import GroupEngine, GroupOutput, Prompt
from grpo_mmpc.types import PromptRow, SamplingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

ROWS_AT_ONCE = 256
"""Prompts of an evaluation handed to the engine of a rank together."""


class VLLMRollouts:
    """What ``GRPOTrainer`` composes as ``vllm_generation``: ``sync_weights`` and ``generate``.

    TRL's own class pushes the merged full weights. This one sends the adapter and nothing else,
    asks for a group as one request, and compares the prompt that the engine used with the trainer's
    in every call.
    """

    def __init__(
        self, engine: GroupEngine, model: Any, sampling: SamplingConfig, *, rank: int, step: Callable[[], int]
    ) -> None:
        """Keep references.

        Args:
            engine: Where completions come from.
            model: The trainer's ``PeftModel``.
            sampling: Of rollouts; its ``seed`` is the run's.
            rank: Of this process; ranks draw different seeds.
            step: The trainer's current step, from which seeds are derived: a resumed run repeats
                them.
        """
        self.engine = engine
        self.adapter: str | None = None
        """Name of the adapter that the engine has now."""
        self.conversations: Sequence[Any] = ()
        """Prompts of the next call as chat messages with images; set by the trainer."""
        self._model = model
        self._sampling = sampling
        self._rank = rank
        self._step = step
        self._calls = (-1, 0)  # (step, calls in this step)
        self._syncs = 0

    def sync_weights(self) -> None:
        """Send the live adapter under a new name and forget the one before."""
        self._syncs += 1
        previous, name = self.adapter, f"policy-{self._syncs}"
        self.engine.load(read_adapter(self._model, name=name, dtype=self.engine.lora_dtype))
        self.adapter = name
        if previous is not None:
            self.engine.unload(previous)

    def generate(
        self,
        prompts: list[list[int]],
        images: list[list[Any] | None] | None,
        num_generations: int,
        profiler: AbstractContextManager[Any] | None = None,
    ) -> tuple[list[list[int]], list[list[int]], list[list[list[float]]], None]:
        """Completions of this rank's prompts, in TRL's shapes.

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
        groups = self._groups(prompts, images)
        with profiler or nullcontext():
            outputs = self.engine.generate(groups, self._sampling, adapter=self.adapter)
        for group, output in zip(groups, outputs, strict=True):
            check_prompt_ids(group.token_ids, output.prompt_ids)
        completions = [completion for output in outputs for completion in output.completions]
        if len(completions) != len(prompts):
            raise RolloutError(f"the engine returned {len(completions)} completions for {len(prompts)} prompts")
        return (
            [output.prompt_ids for output in outputs for _ in output.completions],
            [completion.token_ids for completion in completions],
            [[[logprob] for logprob in completion.logprobs] for completion in completions],
            None,
        )

    def _groups(self, prompts: list[list[int]], images: list[list[Any] | None] | None) -> list[Prompt]:
        """Runs of equal prompts as one request each."""
        if len(self.conversations) != len(prompts):
            raise RolloutError(f"{len(prompts)} prompts but {len(self.conversations)} conversations")
        keys = [(tuple(ids), image_key(images[row] if images is not None else None)) for row, ids in enumerate(prompts)]
        starts = [row for row in range(len(prompts)) if row == 0 or keys[row] != keys[row - 1]]
        step = self._step()
        calls = self._calls[1] + 1 if self._calls[0] == step else 0
        self._calls = (step, calls)
        return [
            Prompt(
                token_ids=prompts[start],
                conversation=self.conversations[start],
                count=end - start,
                seed=derived_seed(self._sampling.seed, step, calls, self._rank, index),
            )
            for index, (start, end) in enumerate(zip(starts, [*starts[1:], len(prompts)], strict=True))
        ]


class VLLMEngine:
    """Implements ``Engine`` for evaluation: the same vLLM, greedy or not, with an adapter or without."""

    def __init__(
        self,
        engine: GroupEngine,
        processor: Any,
        *,
        adapter: str | None,
        accelerator: "Accelerator | None" = None,
    ) -> None:
        """Keep references.

        Args:
            engine: A running engine.
            processor: The policy's processor.
            adapter: Name of a loaded adapter; None is the base model.
            accelerator: The trainer's; rows are dealt over its ranks.
        """
        self._engine = engine
        self._processor = processor
        self._adapter = adapter
        self._accelerator = accelerator

    @property
    def rows_at_once(self) -> int:
        """``ROWS_AT_ONCE`` on every rank."""
        return ROWS_AT_ONCE * (1 if self._accelerator is None else self._accelerator.num_processes)

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        """See ``Engine.generate``."""
        if not rows:
            return []
        accelerator = self._accelerator
        rank, world = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
        mine = list(range(rank, len(rows), world))
        rows_per_rank = -(-len(rows) // world)  # a short rank repeats a row: calls may be collectives
        padded = [rows[i] for i in mine] + [rows[0]] * (rows_per_rank - len(mine))
        texts: list[str] = []
        for start in range(0, rows_per_rank, ROWS_AT_ONCE):
            prompts = [
                prompt_of(row, self._processor, count=1, seed=derived_seed(sampling.seed, start + i, rank))
                for i, row in enumerate(padded[start : start + ROWS_AT_ONCE])
            ]
            outputs = self._engine.generate(prompts, sampling, adapter=self._adapter)
            for prompt, output in zip(prompts, outputs, strict=True):
                check_prompt_ids(prompt.token_ids, output.prompt_ids)
            texts += self._decode(outputs)
        found = dict(zip(mine, texts, strict=False))
        if world > 1:
            from accelerate.utils import gather_object

            found = dict(gather_object(list(found.items())))
        return [found[i] for i in range(len(rows))]

    def _decode(self, outputs: list[GroupOutput]) -> list[str]:
        ids = [output.completions[0].token_ids for output in outputs]
        return list(self._processor.batch_decode(ids, skip_special_tokens=True))


def prompt_of(row: PromptRow, processor: Any, *, count: int, seed: int) -> Prompt:
    """A row as a request, tokenised as the trainer tokenises it."""
    messages = conversation(row)
    encoded = processor.apply_chat_template(
        [messages], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors=None
    )
    return Prompt(token_ids=list(encoded["input_ids"][0]), conversation=messages, count=count, seed=seed)


def check_prompt_ids(trainer: Sequence[int], engine: Sequence[int]) -> None:
    """Refuse a prompt that trainer and engine see differently.

    Raises:
        RolloutError: Shows where they part and the usual causes.
    """
    if list(trainer) == list(engine):
        return
    at = next(
        (i for i, (a, b) in enumerate(zip(trainer, engine, strict=False)) if a != b), min(len(trainer), len(engine))
    )
    raise RolloutError(
        f"trainer and engine see different prompts: {len(trainer)} and {len(engine)} tokens, parting at position {at} "
        f"(trainer ...{list(trainer[max(0, at - 3) : at + 4])}, engine ...{list(engine[max(0, at - 3) : at + 4])}). "
        "Usual causes: another number of image tokens (min_pixels and max_pixels differ: both sides must use "
        "model.processor_kwargs), a begin-of-sequence token added twice, or another chat template"
    )


def image_key(images: Sequence[Any] | None) -> str:
    """Hash of a prompt's images by content."""
    digest = hashlib.blake2b(digest_size=16)
    for image in images or ():
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()


def derived_seed(*parts: int) -> int:
    """31-bit seed from integers; neighbours share nothing, so that groups do not repeat each other's draws."""
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1
