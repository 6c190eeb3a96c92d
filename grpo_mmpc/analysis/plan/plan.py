"""A plan of a training: what fits, how long it takes, what would fail, and what to turn."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from grpo_mmpc.analysis.plan.hardware import GIB, STRATEGIES, Device, Strategy
from grpo_mmpc.analysis.plan.memory import CUDA_CONTEXT, Memory, engine_need, memory_of
from grpo_mmpc.analysis.plan.speed import Speed, speed_of
from grpo_mmpc.analysis.plan.workload import Workload, workload_of
from grpo_mmpc.catalogue.images import image_size
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import ImageError
from grpo_mmpc.models.shapes import ModelShape

USABLE = 0.95
"""Share of a GPU's memory up to which a plan counts as fitting."""
_SAMPLED_IMAGES = 300
_MOST_REMEDIES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a recipe needs on so many GPUs."""

    work: Workload
    gpus: int
    """All, of every machine."""
    nodes: int
    device: Device
    num_images: int
    """Of the catalogue whose sizes were read; 0 = none was, and the largest are assumed."""
    memory: Mapping[str, Memory]
    """By the name of the strategy."""
    speed: Mapping[str, Speed]
    problems: Sequence[str]
    """What would fail whatever the memory."""
    remedies: Sequence[tuple[str, str, float]]
    """Where nothing fits: changes that make it fit, as (overrides, strategy, bytes a GPU)."""

    @property
    def fitting(self) -> list[str]:
        """The strategies that fit, the one with the least traffic first."""
        return [name for name, memory in self.memory.items() if _fits(memory, self.device)]


def make_plan(
    config: RunConfig,
    shape: ModelShape,
    *,
    device: Device,
    gpus: int,
    nodes: int,
    strategies: Sequence[Strategy] = tuple(STRATEGIES.values()),
) -> Plan:
    """Return the plan of a recipe; nothing of its model is loaded.

    Args:
        config: The recipe.
        shape: Of its base model.
        device: The kind of GPU, with the memory there is.
        gpus: Of all machines together.
        nodes: Machines.
        strategies: Those to compare.
    """
    sizes = _image_sizes(Path(config.data.catalogue))
    work = workload_of(config, shape, sizes=sizes)
    memory = {s.name: _memory(work, s, device=device, gpus=gpus) for s in strategies if not _refused(work, s)}
    plan = Plan(
        work=work,
        gpus=gpus,
        nodes=nodes,
        device=device,
        num_images=len(sizes),
        memory=memory,
        speed={
            name: speed_of(work, config, STRATEGIES[name], device, processes=gpus, nodes=nodes)
            for name in memory
            if not work.on_cpu
        },
        problems=[*_problems(config, work, gpus=gpus, device=device)],
        remedies=[],
    )
    if plan.fitting:
        return plan
    found = _remedies(config, shape, sizes, device=device, gpus=gpus, strategies=strategies)
    return replace(plan, remedies=[*islice(found, _MOST_REMEDIES)])


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain data: bytes, seconds, counts."""
    work = plan.work
    return {
        "gpus": plan.gpus,
        "nodes": plan.nodes,
        "gpu_memory_bytes": plan.device.memory_gib * GIB,
        "parameters": work.shape.parameters,
        "trained_parameters": work.trained_parameters,
        "image_tokens": work.image_tokens,
        "images_read": plan.num_images,
        "prompt_tokens": work.prompt_tokens,
        "completion_tokens": work.completion_tokens,
        "completions_per_step": work.completions * plan.gpus,
        "fits": plan.fitting,
        "memory": {
            name: {
                "resident": dict(memory.resident),
                "phases": {phase: dict(parts) for phase, parts in memory.phases.items()},
                "peak": memory.peak,
                "host": memory.host,
            }
            for name, memory in plan.memory.items()
        },
        "seconds": {
            name: {"step": dict(speed.phases), "evaluation": speed.evaluation_s, "run": speed.total_s}
            for name, speed in plan.speed.items()
        },
        "traffic_bytes": {name: dict(speed.traffic) for name, speed in plan.speed.items()},
        "problems": list(plan.problems),
        "remedies": [{"overrides": o, "strategy": s, "peak": peak} for o, s, peak in plan.remedies],
    }


def _memory(work: Workload, strategy: Strategy, *, device: Device, gpus: int) -> Memory:
    return memory_of(work, strategy, processes=gpus, device_bytes=device.memory_gib * GIB)


def _fits(memory: Memory, device: Device) -> bool:
    return memory.peak <= USABLE * device.memory_gib * GIB


def _refused(work: Workload, strategy: Strategy) -> bool:
    """Return whether a combination is refused before anything loads (docs/gpus.md)."""
    return (work.quantised and strategy.weights) or (not work.is_adapter and strategy.name == "fsdp2")


def _problems(config: RunConfig, work: Workload, *, gpus: int, device: Device) -> Iterator[str]:
    completions = work.rollouts_at_once * gpus
    if completions % work.num_generations:
        yield (
            f"{completions} completions of a generation batch ({work.rollouts_at_once} a GPU on {gpus} GPUs) do not "
            f"divide into groups of trainer.num_generations={work.num_generations}"
        )
    if work.engine == "vllm" and gpus % work.tensor_parallel:
        yield f"rollout.engine.tensor_parallel_size={work.tensor_parallel} does not divide {gpus} GPUs"
    if config.rollout.ahead and work.engine != "server":
        yield "rollout.ahead=1 samples on servers: set rollout.backend=vllm and rollout.mode=server, or rollout.ahead=0"
    needed, limit = work.prompt_tokens + work.completion_tokens, config.rollout.engine.max_model_len
    if work.by_vllm and limit is not None and needed > limit:
        yield (
            f"the longest prompt ({work.prompt_tokens} tokens) and completion ({work.completion_tokens}) exceed "
            f"rollout.engine.max_model_len={limit}: raise it, or lower model.processor_kwargs.max_pixels"
        )
    if work.engine == "vllm":
        share, need = work.engine_share * device.memory_gib * GIB - CUDA_CONTEXT, engine_need(work)
        if need > share:
            yield (
                f"vLLM needs about {need / GIB:.0f} GiB a GPU for weights and one batch, and "
                f"rollout.engine.gpu_memory_utilization={work.engine_share:g} leaves {share / GIB:.0f}: raise it or "
                "rollout.engine.tensor_parallel_size, or take rollout.mode=server"
            )


def _remedies(
    config: RunConfig,
    shape: ModelShape,
    sizes: Sequence[tuple[int, int]],
    *,
    device: Device,
    gpus: int,
    strategies: Sequence[Strategy],
) -> Iterator[tuple[str, str, float]]:
    for overrides in _changes(config):
        changed = _changed(config, overrides)
        work = workload_of(changed, shape, sizes=sizes)
        if [*_problems(changed, work, gpus=gpus, device=device)]:
            continue
        for strategy in strategies:
            if _refused(work, strategy):
                continue
            memory = _memory(work, strategy, device=device, gpus=gpus)
            if _fits(memory, device):
                written = " ".join(f"{key}={_plain(value)}" for key, value in overrides.items())
                yield written, strategy.name, memory.peak
                break


def _changes(config: RunConfig) -> Iterator[dict[str, Any]]:
    """Yield what a person would turn, the least costly first, then two of them together."""
    micro = int(config.trainer.get("per_device_train_batch_size", 8))
    accumulated = int(config.trainer.get("gradient_accumulation_steps", 1))
    batches = [
        {
            "trainer.per_device_train_batch_size": micro // factor,
            "trainer.gradient_accumulation_steps": accumulated * factor,
        }
        for factor in (2, 4, 8, 16)
        if micro % factor == 0
    ]
    single: list[dict[str, Any]] = [*batches]
    if not config.trainer.get("gradient_checkpointing", True):
        single.insert(0, {"trainer.gradient_checkpointing": True})
    if config.rollout.backend == "vllm":
        size = int(config.rollout.engine.tensor_parallel_size or 1)
        single += [{"rollout.engine.tensor_parallel_size": size * factor} for factor in (2, 4)]
        single.append({"rollout.backend": "transformers", "trainer.ds3_gather_for_generation": False})
    if config.adapter is not None and config.model.quantization is None:
        single.append({"model.quantization": "nf4", "rollout.backend": "transformers"})
    yield from single
    smallest = batches[-1] if batches else {}
    yield from ({**smallest, **other} for other in single[len(batches) :])


def _changed(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    content = config.model_dump()
    for key, value in overrides.items():
        section, *path = key.split(".")
        place = content[section]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
    return RunConfig.model_validate(content)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _image_sizes(folder: Path) -> list[tuple[int, int]]:
    """Return height and width of some images of a catalogue folder; none where it has no such."""
    sizes = []
    for path in islice((folder / "images").rglob("*.*"), _SAMPLED_IMAGES):
        try:
            sizes.append(image_size(path))
        except (ImageError, OSError):
            continue
    return sizes
