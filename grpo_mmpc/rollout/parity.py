"""Is the engine the policy that is being trained? Compared token by token, before training and after the first steps.

A stale or wrong adapter, another image size, a doubled ``<bos>`` or another attention mask leave no
other trace than a run that does not learn; here each stops it with its name.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.policy import adapter_off
from grpo_mmpc.rollout.transformers_engine import conversation
from grpo_mmpc.rollout.vllm.generation import check_prompt_ids, derived_seed, prompt_of
from grpo_mmpc.rollout.vllm.protocol import GroupEngine, GroupOutput
from grpo_mmpc.types import PromptRow, SamplingConfig

MEAN_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}
"""Largest mean absolute difference of a token's log-probability. In half precision two correct
implementations round differently; a wrong adapter or mask is an order of magnitude above."""

_CLOSER, _MOST = 2.0, 0.8
"""An engine is told from policy or base model where it is so many times closer to the other, on
average and for this share of the tokens. The first updates of a training in half precision change
less than its rounding: then a correct engine is as close to either, and an average alone can lean
to one side by a few tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """What a check found; all differences are absolute, per sampled token, in nats."""

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
    problems: list[str] = field(default_factory=list)
    """Empty if engine and policy are one model."""

    @property
    def tells_policy_from_base(self) -> bool:
        """Whether the engine was seen to be the policy and not the base model: later updates arrive as this one did."""
        return _is_told(self.mean_difference, self.mean_difference_to_base, self.nearer_policy_share)

    def as_dict(self) -> dict[str, Any]:
        """For the run's files."""
        return asdict(self)

    def raise_on_problems(self) -> None:
        """Stop the run if anything was found.

        Raises:
            RolloutError: Every problem with its likely cause.
        """
        if self.problems:
            raise RolloutError(
                f"the rollout engine is not the policy (step {self.step}):\n"
                + "\n".join(f"  - {problem}" for problem in self.problems)
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
    dtype: str | None = None,
) -> ParityReport:
    """Sample from the engine, score the same tokens with the policy and its base model, and compare.

    A collective where the policy is sharded: every rank calls it with equally many rows.

    Args:
        model: The ``PeftModel`` as the trainer runs it.
        processor: Its processor.
        engine: The engine.
        rows: Prompts to compare.
        adapter: Name of the adapter that the engine should be using.
        adapter_is_identity: Whether that adapter changes nothing yet (before the first step).
        suppressed_token_ids: Tokens that the engine never samples.
        max_tokens: Length of the sampled completions.
        temperature: Of the rollouts; log-probabilities are compared after it.
        step: Trainer's step, for the report.
        mean_tolerance: None takes ``MEAN_TOLERANCE`` of the dtype.
        dtype: What the policy computes in (mixed precision); None is the dtype of its weights.
    """
    sampling = SamplingConfig(max_tokens=max_tokens, temperature=temperature, seed=step)
    prompts = [prompt_of(row, processor, count=1, seed=derived_seed(20, step, i)) for i, row in enumerate(rows)]
    dtype = dtype or str(next(p for p in model.parameters() if not p.requires_grad).dtype).removeprefix("torch.")
    tolerance = mean_tolerance or MEAN_TOLERANCE.get(dtype, MEAN_TOLERANCE["bfloat16"])
    problems: list[str] = []
    outputs: list[GroupOutput | None] = [None] * len(prompts)
    try:
        outputs = list(engine.generate(prompts, sampling, adapter=adapter))
    except RolloutError as error:
        problems.append(f"the engine does not take a prompt that the trainer takes: {error}")

    to_policy: list[float] = []
    to_base: list[float] = []
    for row, prompt, output in zip(rows, prompts, outputs, strict=True):
        problems += _prompt_problems(row, prompt.token_ids, processor, _image_token_id(model), output)
        completion = output.completions[0] if output is not None else None
        # Also without an answer of the engine: on other ranks the forward passes below are
        # collectives.
        ids = completion.token_ids if completion is not None else [processor.tokenizer.eos_token_id]
        scored = [
            _log_probabilities(model, processor, row, ids, suppressed_token_ids, temperature, base=base)
            for base in (False, True)
        ]
        if completion is not None:
            to_policy += [abs(a - b) for a, b in zip(completion.logprobs, scored[0], strict=True)]
            to_base += [abs(a - b) for a, b in zip(completion.logprobs, scored[1], strict=True)]

    mean, largest = _mean(to_policy), max(to_policy, default=math.nan)
    mean_to_base = None if adapter_is_identity else _mean(to_base)
    nearer = [a < b for a, b in zip(to_policy, to_base, strict=True) if a != b]
    share = _mean(nearer) if nearer and not adapter_is_identity else None
    if not problems:
        problems += _difference_problems(mean, mean_to_base, share, tolerance, dtype)
    return ParityReport(
        step=step,
        rows=len(rows),
        tokens=len(to_policy),
        largest_image=_largest_image(rows),
        dtype=dtype,
        tolerance=tolerance,
        mean_difference=mean,
        max_difference=largest,
        mean_difference_to_base=mean_to_base,
        nearer_policy_share=share,
        problems=list(dict.fromkeys(problems)),
    )


def choose_rows(rows: Sequence[PromptRow], count: int) -> list[PromptRow]:
    """The row with the largest image, then evenly spaced ones: image sizes are read from the files' headers."""
    with_image = [row for row in rows if row.prompt_image_path is not None]
    chosen = [max(with_image, key=_pixels)] if with_image else []
    spaced = rows[:: max(1, len(rows) // count)]
    return [*chosen, *(row for row in spaced if row not in chosen)][:count]


def _prompt_problems(
    row: PromptRow, token_ids: list[int], processor: Any, image_token_id: int, output: GroupOutput | None
) -> list[str]:
    """What is wrong with a prompt itself, whatever the weights."""
    problems = []
    bos = getattr(processor.tokenizer, "bos_token_id", None)
    if bos is not None and token_ids.count(bos) > 1:
        problems.append(
            f"{row.prompt_id}: <bos> occurs {token_ids.count(bos)} times in the trainer's prompt: chat template and "
            "tokenizer both add it; switch one of them off"
        )
    inputs = _inputs(processor, row)
    image_tokens, features = token_ids.count(image_token_id), _num_features(inputs, processor)
    if image_tokens != features:
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
    if not mean <= tolerance:
        if mean_to_base is not None and mean_to_base < mean:
            return [
                f"the engine is closer to the base model than to the policy (mean log-probability difference "
                f"{mean_to_base:.2g} and {mean:.2g}): it still has old weights; the adapter did not arrive"
            ]
        return [
            f"log-probabilities of the sampled tokens differ by {mean:.2g} on average, more than {tolerance:g} "
            f"({dtype}): the engine has another adapter or another base model, or image tokens attend differently "
            "(Gemma-3: model.image_attention)"
        ]
    if mean_to_base is not None and nearer_policy is not None and _is_told(mean_to_base, mean, 1.0 - nearer_policy):
        return [
            f"after an update the engine agrees better with the base model than with the policy (mean log-probability "
            f"difference {mean_to_base:.2g} and {mean:.2g}): it still has old weights; the adapter did not arrive"
        ]
    return []


def _is_told(to_one: float, to_other: float | None, nearer_share: float | None) -> bool:
    """Whether an engine is one model and not the other."""
    if to_other is None or nearer_share is None:
        return False
    return to_other > _CLOSER * to_one and nearer_share >= _MOST


def _log_probabilities(
    model: Any,
    processor: Any,
    row: PromptRow,
    completion_ids: list[int],
    suppressed_token_ids: Sequence[int],
    temperature: float,
    *,
    base: bool,
) -> list[float]:
    """Log-probability of each completion token under the policy, or under the base model."""
    import torch

    inputs = _inputs(processor, row)
    prompt_length = inputs["input_ids"].shape[1]
    tail = torch.tensor([completion_ids])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            fill = torch.ones_like(tail) if name == "attention_mask" else torch.zeros_like(tail)
            inputs[name] = torch.cat([inputs[name], fill.to(inputs[name].dtype)], dim=1)
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in inputs.items()}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), _without_adapter(model, base):
            logits = model(**inputs).logits[0, prompt_length - 1 : -1].float()  # [T, V]
    finally:
        model.train(was_training)
    logits[:, list(suppressed_token_ids)] = -math.inf
    scores = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    return [float(value) for value in scores.gather(1, tail.T.to(device))[:, 0].tolist()]


def _without_adapter(model: Any, base: bool) -> Any:
    from contextlib import nullcontext

    inner = getattr(model, "module", model)  # DDP and DeepSpeed wrap the PeftModel
    return adapter_off(inner) if base else nullcontext()


def _inputs(processor: Any, row: PromptRow) -> dict[str, Any]:
    """A prompt as the model takes it, ``[1, L]`` and the image's tensors."""
    encoded = processor.apply_chat_template(
        [conversation(row)], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return dict(encoded)


def _image_token_id(model: Any) -> int:
    return int(getattr(model, "module", model).config.image_token_id)


def _num_features(inputs: dict[str, Any], processor: Any) -> int:
    """Image features that the vision tower will produce."""
    if "image_grid_thw" in inputs:  # Qwen2.5-VL: patches, merged merge_size x merge_size
        return int(inputs["image_grid_thw"].prod(dim=1).sum()) // int(processor.image_processor.merge_size) ** 2
    if "pixel_values" in inputs:  # Gemma-3: a fixed number per image
        return int(inputs["pixel_values"].shape[0]) * int(processor.image_seq_length)
    return 0


def _pixels(row: PromptRow) -> int:
    width, height = _image_size(row)
    return width * height


def _image_size(row: PromptRow) -> tuple[int, int]:
    from PIL import Image

    with Image.open(str(row.prompt_image_path)) as image:
        return image.size


def _largest_image(rows: Sequence[PromptRow]) -> tuple[int, int] | None:
    sizes = [_image_size(row) for row in rows if row.prompt_image_path is not None]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
