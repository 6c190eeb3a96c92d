"""One step of a recipe in numbers: tokens, batches, what is trained, what generates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.analysis.plan.tokens import counter, image_tokens, most_image_tokens, prompt_tokens
from grpo_mmpc.config import RunConfig
from grpo_mmpc.models.shapes import ModelShape
from grpo_mmpc.utils.content import model_folder
from grpo_mmpc.utils.files import read_object
from grpo_mmpc.utils.model_paths import resolve_model

_ENCODERS = {"bertscore": 1.42e9, "clip_similarity": 0.61e9, "dinov2_similarity": 0.35e9, "retrieval": 0.09e9}
"""Bytes of the encoders of rewards in float32: roberta-large, CLIP ViT-B/32, DINOv2-B, MiniLM."""
_PATCHES_A_TOKEN = {"gemma3": 16, "gemma4": 9, "smolvlm": 9, "internvl": 4}
_QWEN_PATCHES_A_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one process does in one step, and with what."""

    shape: ModelShape
    on_cpu: bool
    dtype: str
    quantised: bool
    is_adapter: bool
    trained_parameters: int
    bytes_of_trained: float
    """Of one trained parameter, as of its gradient and of each of AdamW's moments."""
    reference_copy: bool
    """A second whole model for the KL term; with an adapter the base is it."""
    reference_pass: bool
    prompt_tokens: int
    """Of the longest prompt."""
    typical_prompt_tokens: int
    image_tokens: int | None
    """Of the largest image; None where the family's rule is not known."""
    image_patches: int
    completion_tokens: int
    micro_batch: int
    """Completions of one backward pass."""
    completions: int
    """Completions of one process and update."""
    rollouts_at_once: int
    """Completions that are generated together in one process."""
    num_generations: int
    checkpointing: bool
    engine: str
    """What generates: transformers, vllm (in the training processes), server; none in SFT."""
    engine_share: float
    engine_sleeps: bool
    tensor_parallel: int
    gathers_whole_copy: bool
    encoder_bytes: float
    rendered: int
    """Images that rewards render for one process and update."""
    steps: int | None
    """Of the run; None where epochs say it."""

    @property
    def by_vllm(self) -> bool:
        """True where rollouts come from vLLM, in the training processes or on servers."""
        return self.engine in ("vllm", "server")


def workload_of(config: RunConfig, shape: ModelShape, *, sizes: Sequence[tuple[int, int]]) -> Workload:
    """Return one step of a recipe.

    Args:
        config: The recipe.
        shape: Of its base model.
        sizes: Height and width of images of the catalogue, some or all.
    """
    trainer: Mapping[str, Any] = config.trainer
    adapter, rollout = config.adapter, config.rollout
    folder = model_folder(resolve_model(config.model.name_or_path))
    count = counter(folder)
    options = {**_own_limits(folder), **config.model.processor_kwargs}
    known = sorted(image_tokens(shape.model_type, options, height=h, width=w) or 0 for h, w in sizes)
    largest = most_image_tokens(shape.model_type, options)
    if known and largest is not None:
        largest = known[-1]
    most, typical = largest or 0, known[len(known) // 2] if known else largest or 0
    tasks = [config.known_tasks[name] for name in config.tasks]
    micro = int(trainer.get("per_device_train_batch_size", 8))
    accumulated = int(trainer.get("gradient_accumulation_steps", 1))
    per_generation = int(trainer.get("steps_per_generation") or accumulated)
    dtype = str(config.model.init_kwargs.get("dtype", "auto")).removeprefix("torch.")
    trained = shape.parameters if adapter is None else shape.adapter_parameters(adapter)
    trained_bytes = 4.0 if adapter is not None or dtype == "float32" else 2.0
    beta = float(trainer.get("beta", 0.0))
    shows_image = any(task.shows_image for task in tasks)
    is_sft, on_policy = config.method == "sft", rollout.backend == "transformers"
    return Workload(
        shape=shape,
        on_cpu=bool(trainer.get("use_cpu")),
        dtype=dtype,
        quantised=config.model.quantization is not None,
        is_adapter=adapter is not None,
        trained_parameters=trained,
        bytes_of_trained=trained_bytes,
        reference_copy=adapter is None and beta > 0 and not is_sft,
        reference_pass=beta > 0 and not is_sft,
        prompt_tokens=max(prompt_tokens(task, image=most, count=count) for task in tasks),
        typical_prompt_tokens=max(prompt_tokens(task, image=typical, count=count) for task in tasks),
        image_tokens=largest,
        image_patches=most * _PATCHES_A_TOKEN.get(shape.model_type, _QWEN_PATCHES_A_TOKEN) * shows_image,
        completion_tokens=config.max_completion_length,
        micro_batch=micro,
        completions=micro * accumulated,
        rollouts_at_once=micro * per_generation,
        num_generations=1 if is_sft else int(trainer.get("num_generations", 8)),
        checkpointing=bool(trainer.get("gradient_checkpointing", True)),
        engine="none" if is_sft else "transformers" if on_policy else rollout.mode.replace("colocate", "vllm"),
        engine_share=float(rollout.engine.gpu_memory_utilization or 0.9),
        engine_sleeps=bool(rollout.sleep),
        tensor_parallel=int(rollout.engine.tensor_parallel_size or 1),
        gathers_whole_copy=bool(trainer.get("ds3_gather_for_generation", True)),
        encoder_bytes=sum(
            _ENCODERS.get(spec.name, 0.0)
            for spec in ([] if is_sft else config.rewards.mix)
            if not str(spec.kwargs.get("model")).startswith("nano:")
        ),
        rendered=micro * accumulated if _renders(config) and not is_sft else 0,
        steps=int(trainer["max_steps"]) if int(trainer.get("max_steps", -1)) > 0 else None,
    )


def _own_limits(folder: Path | None) -> dict[str, int]:
    """Return the limits of images that a model's own folder sets, where it lies on this machine."""
    if folder is None:
        return {}

    def content_of(name: str) -> dict[str, Any]:
        return read_object((folder / name).resolve())  # a link in the hub's cache

    config = content_of("config.json")
    for name in ("processor_config.json", "preprocessor_config.json"):
        if whole := content_of(name):
            content = whole.get("image_processor", whole)
            size = content.get("size") or {}
            limits = {
                "min_pixels": content.get("min_pixels") or size.get("shortest_edge"),
                "max_pixels": content.get("max_pixels") or size.get("longest_edge"),
                "image_seq_length": whole.get("image_seq_length") or config.get("image_seq_length"),
            }
            return {key: value for key, value in limits.items() if isinstance(value, int)}
    return {}


def _renders(config: RunConfig) -> bool:
    return any("renderer" in spec.kwargs or spec.name == "cycle_consistency" for spec in config.rewards.mix)
