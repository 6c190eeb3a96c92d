"""The time of one step by phase, and of the run: arithmetic, checked against few measurements.

A phase takes as long as its floating-point operations at the share of a device's peak that
training reaches, or as its bytes at the share of the memory's bandwidth that decoding reaches,
whichever is longer. docs/plan.md lists the assumptions and what was measured.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from grpo_mmpc.analysis.plan.hardware import Device, Strategy
from grpo_mmpc.analysis.plan.workload import Workload
from grpo_mmpc.config import RunConfig

USED_TFLOPS = 0.35
USED_BANDWIDTH = 0.6
HF_LAYER_S = 0.0022
"""Of one layer with adapters and one token in ``generate``: kernel launches, whatever the batch."""
VLLM_LAYER_S = 0.0001
LINK_BYTES_S = {1: 150e9, 2: 20e9}
"""What one GPU receives from others in one machine (NVLink), and from other machines."""
UPLOAD_BYTES_S = 1e9
"""What one process sends to servers over HTTP; 1.4e9 to this machine were measured."""
PATCH_PIXELS = 14 * 14
SENT_BYTES_A_PIXEL = 1.8
"""Of a photograph in a request, measured: PNG in base64."""
SENT_BYTES_A_TOKEN = 60.0
"""Of a completion in an answer: its id and its log-probability as JSON."""
IMAGE_S = 1.0
"""One rendered image: a four-step diffusion model of 512 pixels on a GPU of its own."""
SCORED_A_SECOND = 400.0
"""Completions that encoders score on a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds of one step by phase, and of the run."""

    phases: Mapping[str, float]
    traffic: Mapping[str, float]
    """Bytes that one process receives from other GPUs or sends to servers in a step, by phase."""
    evaluation_s: float
    """Of one evaluation of all its tasks."""
    evaluations: int
    steps: int | None

    @property
    def step_s(self) -> float:
        """Seconds of one step."""
        return sum(self.phases.values())

    @property
    def total_s(self) -> float | None:
        """Seconds of the run without loading; None where the steps are not known."""
        return None if self.steps is None else self.steps * self.step_s + self.evaluations * self.evaluation_s


def speed_of(
    work: Workload, config: RunConfig, strategy: Strategy, device: Device, *, processes: int, nodes: int
) -> Speed:
    """Return how long a step and a run take on ``processes`` GPUs of ``nodes`` machines."""
    shape = work.shape
    tokens = work.completions * (work.typical_prompt_tokens + work.completion_tokens)
    forward_s = 2 * shape.parameters * tokens / (USED_TFLOPS * device.tflops * 1e12)
    # forward, once more for checkpointing, and backward: through activations alone with an adapter
    passes = 2 + work.checkpointing + (not work.is_adapter)
    phases = {"update": forward_s * passes}
    if work.engine != "none":
        phases = {
            "rollouts": _decoding(work, device, count=work.completions),
            "rewards": work.completions / SCORED_A_SECOND,
            "rendering": work.rendered * IMAGE_S,
            "log-probabilities": forward_s * (work.reference_pass + work.by_vllm),
            **phases,
        }
    traffic = {}
    if strategy.weights and processes > 1:
        whole = shape.parameters * 2.0 * (processes - 1) / processes
        micro_batches = math.ceil(work.completions / work.micro_batch)
        traffic["gathering weights"] = whole * (passes - 1 + work.reference_pass) * micro_batches
    if processes > 1:
        traffic["gradients between GPUs"] = 2 * work.trained_parameters * work.bytes_of_trained
    link = LINK_BYTES_S[1 if nodes == 1 else 2]
    phases |= {name: size / link for name, size in traffic.items()}
    if work.by_vllm:
        phases["adapter to engines"] = 0.5
    if work.engine == "server":
        servers = len(config.rollout.servers) or math.ceil(processes / work.tensor_parallel)
        prompt = work.image_patches * PATCH_PIXELS * SENT_BYTES_A_PIXEL
        answers = work.completion_tokens * SENT_BYTES_A_TOKEN
        traffic["prompts and answers"] = work.completions * (prompt / work.num_generations + answers)
        traffic["adapter to servers"] = 2.0 * work.trained_parameters * math.ceil(servers / processes)
        phases["adapter to engines"] += traffic["adapter to servers"] / UPLOAD_BYTES_S
    if config.rollout.ahead and work.engine == "server":  # which samples while the step before is learned from
        sampling, upload = phases.pop("rollouts"), phases["adapter to engines"]
        phases = {"waiting for rollouts": max(sampling - (sum(phases.values()) - upload), 0.0), **phases}
    steps = work.steps
    saves = int(config.trainer.get("save_steps", 500))
    items = config.evaluation.max_items or 900
    asked = items * len(config.evaluation_tasks) / processes
    evaluations = 2 + (steps // max(1, saves) if steps else 0)
    return Speed(
        phases={name: seconds for name, seconds in phases.items() if seconds > 0},
        traffic=traffic,
        evaluation_s=_decoding(work, device, count=math.ceil(asked)) + asked / SCORED_A_SECOND,
        evaluations=evaluations,
        steps=steps,
    )


def _decoding(work: Workload, device: Device, *, count: int) -> float:
    """Seconds to generate ``count`` completions on one GPU."""
    shape = work.shape
    at_once = min(count, 256 if work.by_vllm else work.rollouts_at_once)
    batches = math.ceil(count / max(1, at_once))
    bytes_s = USED_BANDWIDTH * device.bandwidth * 1e12
    tokens = work.typical_prompt_tokens + work.completion_tokens / 2
    read = 2.0 * (shape.parameters + at_once * tokens * shape.key_value_elements) / work.tensor_parallel
    layer_s = VLLM_LAYER_S if work.by_vllm else HF_LAYER_S
    token_s = max(read / bytes_s, shape.layers * layer_s)
    prompts = count / work.num_generations if work.by_vllm else count  # a group shares its prompt
    prefill = 2 * shape.parameters * prompts * work.typical_prompt_tokens / (USED_TFLOPS * device.tflops * 1e12)
    return batches * work.completion_tokens * token_s + prefill / work.tensor_parallel
