"""Parity check: compare log-probabilities of engine and trainer, and stop a run if they differ.

A stale or wrong adapter, another image size, a doubled ``<bos>`` or another attention mask leave no
other trace than a run that does not learn; here each stops the run and is named.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.families import image_token_id, num_image_features
from grpo_mmpc.rollout.log_probabilities import log_probabilities
from grpo_mmpc.rollout.prompts import model_inputs
from grpo_mmpc.rollout.vllm.protocol import GroupEngine, GroupOutput, Prompt
from grpo_mmpc.rollout.vllm.requests import check_prompt_ids, derived_seed, prompt_of
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.secrets import without_secrets
from grpo_mmpc.utils.single_out import Failure

MEAN_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2, "nf4": 5e-2}
"""Largest mean absolute difference of a token's log-probability. In half precision two correct
implementations round differently; a wrong adapter or mask is an order of magnitude above. A policy
in nf4 beside an engine that is not quantised differs by .005 to .015 on average (nano)."""

_CLOSER, _MOST = 2.0, 0.8
"""An engine is clearly one of policy and base model where it is so many times closer to it, on
average and for this share of the tokens. The first updates of a training in half precision change
less than its rounding: then a correct engine is as close to either, and an average alone can lean
to one side by a few tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """The result of a check; all differences are absolute, per sampled token, in nats."""

    step: int
    rows: int
    tokens: int
    largest_image: tuple[int, int] | None
    """Width and height in pixels of the largest image among the rows."""
    dtype: str
    tolerance: float
    mean_difference: float
    """Engine against policy."""
    max_difference: float
    mean_difference_to_base: float | None
    """Engine against the base model; None while the adapter changes nothing."""
    nearer_policy_share: float | None
    """Share of the tokens for which the engine is nearer the policy than the base model, 0 to 1;
    tokens as near to both are left out. None while the adapter changes nothing, or if no token is
    left."""
    mean_difference_by_server: dict[str, float] = field(default_factory=dict)
    """The first of them by address; empty for an engine in this process."""
    problems: list[str] = field(default_factory=list)
    """Empty if engine and policy are one model."""

    @property
    def tells_policy_from_base(self) -> bool:
        """True if the engine is clearly the policy, not the base model: updates reach it."""
        return _is_clearly_one(self.mean_difference, self.mean_difference_to_base, self.nearer_policy_share)

    def by_server(self, before: str) -> str:
        """Say how far each server is off, where there are several; empty otherwise."""
        several = len(self.mean_difference_by_server) > 1
        differences = (f"{server} {value:.1e}" for server, value in self.mean_difference_by_server.items())
        return before + ", ".join(differences) if several else ""

    def raise_on_problems(self) -> None:
        """Stop the run if there is any problem.

        Raises:
            RolloutError: Every problem with its likely cause.
        """
        if self.problems:
            raise RolloutError(
                f"the rollout engine is not the policy (step {self.step}):\n"
                + "\n".join(f"  - {problem}" for problem in self.problems)
                + self.by_server("\nOn average by server: ")
                + "\nrollout.parity.enabled=false skips this check; training on such rollouts wastes the run"
            )


def check_parity(
    model: Any,
    processor: Any,
    engine: GroupEngine,
    rows: Sequence[PromptRow],
    *,
    adapter: str | None,
    adapter_is_identity: bool,
    suppressed_token_ids: Sequence[int],
    max_tokens: int,
    temperature: float,
    step: int,
    mean_tolerance: float | None = None,
    dtype: str,
) -> ParityReport:
    """Sample from the engine, score the same tokens with policy and base model, and compare.

    A collective where the policy is sharded: every rank calls it with equally many rows.

    Args:
        model: The policy as the trainer runs it: a ``PeftModel``, or a whole model.
        processor: Its processor.
        engine: The engine.
        rows: Prompts to compare.
        adapter: Name of the adapter that the engine should be using.
        adapter_is_identity: Whether that adapter changes nothing yet (before the first step), or
            there is none to switch off.
        suppressed_token_ids: Tokens that the engine never samples.
        max_tokens: Length of the sampled completions.
        temperature: Of the rollouts; log-probabilities are compared after it.
        step: Trainer's step, for the report.
        mean_tolerance: None takes ``MEAN_TOLERANCE`` of the dtype.
        dtype: What the policy computes in, see ``computing_dtype``.
    """
    sampling = SamplingConfig(max_tokens=max_tokens, temperature=temperature, seed=step)
    prompts = [prompt_of(row, processor, count=1, seed=derived_seed(20, step, i)) for i, row in enumerate(rows)]
    outputs, problems = _sample(engine, prompts, sampling, adapter)
    image_token = image_token_id(getattr(model, "module", model).config)
    options: dict[str, Any] = {"suppressed_token_ids": suppressed_token_ids, "temperature": temperature}
    to_policy: list[float] = []
    by_server: dict[str, list[float]] = defaultdict(list)
    to_base: list[float] = []
    for row, prompt, output in zip(rows, prompts, outputs, strict=True):
        problems += _prompt_problems(row, prompt.token_ids, processor, image_token, output)
        completion = output.completions[0] if output is not None else None
        # Without an answer of the engine too: on other ranks these forward passes are collectives.
        ids = completion.token_ids if completion is not None else [processor.tokenizer.eos_token_id]
        by_policy = log_probabilities(model, processor, row, ids, **options)
        by_base = (
            by_policy if adapter_is_identity else log_probabilities(model, processor, row, ids, **options, base=True)
        )
        if completion is not None and output is not None:
            differences = [abs(a - b) for a, b in zip(completion.logprobs, by_policy, strict=True)]
            to_policy += differences
            by_server[without_secrets(output.server)] += differences
            to_base += [abs(a - b) for a, b in zip(completion.logprobs, by_base, strict=True)]

    tolerance = mean_tolerance or tolerance_of(dtype)
    nearer = [a < b for a, b in zip(to_policy, to_base, strict=True) if a != b]
    mean = _mean(to_policy)
    mean_to_base = None if adapter_is_identity else _mean(to_base)
    share = None if adapter_is_identity or not nearer else _mean(nearer)
    mean_by_server = {server: _mean(values) for server, values in sorted(by_server.items()) if server}
    return ParityReport(
        step=step,
        rows=len(rows),
        tokens=len(to_policy),
        largest_image=max((_image_size(row) for row in rows if row.prompt_image_path), key=math.prod, default=None),
        dtype=dtype,
        tolerance=tolerance,
        mean_difference=mean,
        max_difference=max(to_policy, default=math.nan),
        mean_difference_to_base=mean_to_base,
        nearer_policy_share=share,
        mean_difference_by_server=mean_by_server,
        problems=list(dict.fromkeys(problems))
        or _difference_problems(mean, mean_to_base, share, tolerance, dtype)
        or [
            f"rollout server {server} differs by {value:.2g} on average, more than {tolerance:g} ({dtype}), although "
            "the others bring the average below it: it has another adapter or another base model"
            for server, value in mean_by_server.items()
            if not value <= tolerance
        ],
    )


def computing_dtype(model: Any, arguments: Any) -> str:
    """Return what a policy computes in: ``nf4``, or that of mixed precision, or of its weights.

    Args:
        model: The policy.
        arguments: The trainer's, with ``bf16`` and ``fp16``.
    """
    if getattr(model, "is_loaded_in_4bit", False):
        return "nf4"
    if arguments.bf16 or arguments.fp16:
        return "bfloat16" if arguments.bf16 else "float16"
    weights = sorted(model.parameters(), key=lambda parameter: parameter.requires_grad)  # frozen ones first
    return str(weights[0].dtype).removeprefix("torch.")


def tolerance_of(dtype: str) -> float:
    """Return the largest mean difference of log-probabilities that rounding explains."""
    return MEAN_TOLERANCE.get(dtype, MEAN_TOLERANCE["bfloat16"])


def _sample(
    engine: GroupEngine, prompts: Sequence[Prompt], sampling: SamplingConfig, adapter: str | None
) -> tuple[list[GroupOutput | None], list[str]]:
    refused = "the engine does not take a prompt that the trainer takes:"
    try:
        results = engine.generate(prompts, sampling, adapter=adapter)
    except RolloutError as error:
        return [None] * len(prompts), [f"{refused} {error}"]
    return (
        [None if isinstance(result, Failure) else result for result in results],
        [f"{refused} {result.reason}" for result in results if isinstance(result, Failure)],
    )


def choose_rows(rows: Sequence[PromptRow], count: int) -> list[PromptRow]:
    """Choose the row with the most and largest images (by headers), then evenly spaced ones."""
    with_image = [row for row in rows if row.prompt_image_path is not None]
    chosen = [max(with_image, key=_image_load)] if with_image else []
    spaced = rows[:: max(1, len(rows) // count)]
    return [*chosen, *(row for row in spaced if row not in chosen)][:count]


def _prompt_problems(
    row: PromptRow, token_ids: list[int], processor: Any, image_token: int, output: GroupOutput | None
) -> list[str]:
    problems = []
    bos = getattr(processor.tokenizer, "bos_token_id", None)
    if bos is not None and token_ids.count(bos) > 1:
        problems.append(
            f"{row.prompt_id}: <bos> occurs {token_ids.count(bos)} times in the trainer's prompt: chat template and "
            "tokenizer both add it; switch one of them off"
        )
    image_tokens = token_ids.count(image_token)
    features = num_image_features(model_inputs([row], processor, device="cpu"), processor)
    if features is not None and image_tokens != features:
        problems.append(
            f"{row.prompt_id}: {image_tokens} image tokens in the prompt for {features} image features: the image is "
            "cut or resized differently in two places"
        )
    if output is not None:
        try:
            check_prompt_ids(token_ids, output.prompt_ids)
        except RolloutError as error:
            problems.append(f"{row.prompt_id}: {error}")
    return problems


def _difference_problems(
    mean: float, mean_to_base: float | None, nearer_policy: float | None, tolerance: float, dtype: str
) -> list[str]:
    old_weights = "it still has old weights; the adapter did not arrive"
    if not mean <= tolerance:
        if mean_to_base is not None and mean_to_base < mean:
            return [
                f"the engine is closer to the base model than to the policy (mean log-probability difference "
                f"{mean_to_base:.2g} and {mean:.2g}): {old_weights}"
            ]
        return [
            f"log-probabilities of the sampled tokens differ by {mean:.2g} on average, more than {tolerance:g} "
            f"({dtype}): the engine has another adapter or another base model, or image tokens attend differently "
            "(Gemma: model.image_attention)"
        ]
    if (
        mean_to_base is not None
        and nearer_policy is not None
        and _is_clearly_one(mean_to_base, mean, 1.0 - nearer_policy)
    ):
        return [
            f"after an update the engine agrees better with the base model than with the policy (mean log-probability "
            f"difference {mean_to_base:.2g} and {mean:.2g}): {old_weights}"
        ]
    return []


def _is_clearly_one(to_one: float, to_other: float | None, nearer_share: float | None) -> bool:
    if to_other is None or nearer_share is None:
        return False
    return to_other > _CLOSER * to_one and nearer_share >= _MOST


def _image_load(row: PromptRow) -> tuple[int, int]:
    return len(row.shown_images), math.prod(_image_size(row))


def _image_size(row: PromptRow) -> tuple[int, int]:
    from PIL import Image

    with Image.open(str(row.prompt_image_path)) as image:
        return image.size


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
