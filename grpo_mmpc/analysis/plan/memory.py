"""The memory of one GPU, by what takes it.

What stays for the whole run, and what comes and goes: rollouts, rewards and the update follow one
another, so the largest of the three counts. docs/plan.md compares the sums with measured peaks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from grpo_mmpc.analysis.plan.hardware import GIB, Strategy
from grpo_mmpc.analysis.plan.workload import Workload

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "auto": 2.0}
_NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Of a weight in 4 bits: with the scale of each 64, which is quantised itself."""
_LOGIT_COPIES = 4
"""Of the logits of a micro-batch at the worst moment: as the head gives them, divided by the
temperature, their log-softmax, their gradient."""
_SPARE = 1.03
"""Blocks that the allocator cannot use."""
CUDA_CONTEXT = 0.6 * GIB
"""What CUDA and its libraries take before the first tensor; PyTorch does not count it."""
CPU_PROCESS = 1.1 * GIB
"""Libraries, catalogue and evaluation of a process on a CPU, as the nano job has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of one GPU."""

    resident: Mapping[str, float]
    """For the whole run, by part."""
    phases: Mapping[str, Mapping[str, float]]
    """On top of that, by phase and part."""
    host: float = 0.0
    """Bytes of the machine's own memory, for each GPU."""
    reserved: float
    """What the process takes beside tensors."""

    @property
    def tensors(self) -> float:
        """The peak of what PyTorch allocates, as ``torch.cuda.max_memory_allocated`` counts it."""
        return _SPARE * (sum(self.resident.values()) + max(sum(parts.values()) for parts in self.phases.values()))

    @property
    def peak(self) -> float:
        """The peak of the whole process."""
        return self.tensors + self.reserved

    @property
    def largest_phase(self) -> str:
        """The phase that decides the peak."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))


def memory_of(work: Workload, strategy: Strategy, *, processes: int, device_bytes: float) -> Memory:
    """Return what a training takes of each GPU."""
    shape, shards = work.shape, processes
    dtype = _BYTES.get(work.dtype, 2.0)
    whole = weight_bytes(work)
    weights = whole / (shards if strategy.weights else 1)
    trained = work.trained_parameters
    state = trained * work.bytes_of_trained
    gradients = state / (shards if strategy.gradients else 1)
    moments = 2 * state / (shards if strategy.optimizer else 1)
    host = 0.0
    if strategy.offloaded:
        host, weights, moments = weights + moments, 0.0, 0.0
    resident = {"weights": weights, "adapter": state if work.is_adapter else 0.0}
    resident |= {"gradients": gradients, "optimizer": moments, "encoders": work.encoder_bytes}
    if work.reference_copy:
        resident["reference"] = whole / (shards if strategy.weights else 1)

    tokens = work.prompt_tokens + work.completion_tokens
    gathered = 3 * shape.language_weights / shape.layers * dtype if strategy.weights else 0.0
    micro = work.micro_batch * tokens
    kept = shape.layers * shape.hidden * dtype * micro if work.checkpointing else 0.0
    blocks = 1 if work.checkpointing else shape.layers
    update = {
        "activations": kept + blocks * shape.block_width * dtype * micro,
        "logits": _LOGIT_COPIES * work.micro_batch * (work.completion_tokens + 1) * shape.vocabulary * dtype,
        "images": work.micro_batch * _image_bytes(work, dtype),
        "gathered layers": gathered,
    }
    phases = {"update": update}
    if work.engine == "transformers":
        copy = whole - weights if strategy.weights and work.gathers_whole_copy else gathered
        phases["rollouts"] = {
            "KV cache": work.rollouts_at_once * tokens * shape.key_value_elements * dtype,
            "activations": work.rollouts_at_once * work.prompt_tokens * shape.block_width * dtype,
            "gathered weights": copy,
        }
    elif work.engine == "vllm":
        share = work.engine_share * device_bytes
        if work.engine_sleeps:
            phases["rollouts"] = {"vLLM": share}
            host += whole / work.tensor_parallel
        else:
            resident["vLLM"] = share
    reserved = CPU_PROCESS if work.on_cpu else CUDA_CONTEXT
    return Memory(resident=resident, phases=phases, host=host, reserved=reserved)


def weight_bytes(work: Workload) -> float:
    """Return the bytes of all weights of the base model, as the trainer holds them."""
    dtype = _BYTES.get(work.dtype, 2.0)
    quantised = work.shape.language_weights if work.quantised else 0
    return (work.shape.parameters - quantised) * dtype + quantised * _NF4_BYTES


def engine_need(work: Workload) -> float:
    """Return the bytes that a GPU of a vLLM needs at least: weights and the KV cache of a batch."""
    tokens = work.prompt_tokens + work.completion_tokens
    cache = work.rollouts_at_once * tokens * work.shape.key_value_elements * 2.0
    return (work.shape.parameters * 2.0 + cache) / work.tensor_parallel + 1.5 * GIB


def _image_bytes(work: Workload, dtype: float) -> float:
    return work.image_patches * work.shape.patches_width * dtype
