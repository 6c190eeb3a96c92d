"""The machines that a plan is made for, and how a launch file spreads a model over them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One kind of GPU, as its data sheet has it."""

    memory_gib: float
    tflops: float
    """Dense bfloat16."""
    bandwidth: float
    """Of its memory, in TB/s."""


DEVICES = {
    "h200": Device(memory_gib=141, tflops=989, bandwidth=4.8),
    "h100": Device(memory_gib=80, tflops=989, bandwidth=3.35),
    "a100": Device(memory_gib=80, tflops=312, bandwidth=2.0),
    "l40s": Device(memory_gib=48, tflops=362, bandwidth=0.86),
    "a10g": Device(memory_gib=24, tflops=70, bandwidth=0.6),
    "rtx4090": Device(memory_gib=24, tflops=165, bandwidth=1.0),
}


def this_machine() -> Device:
    """Return the memory of this machine as a device without a speed, for recipes of a CPU."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(memory_gib=round(size / GIB, 1), tflops=0.0, bandwidth=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How weights, gradients and optimizer state are spread over the processes."""

    name: str
    weights: bool = False
    """Sharded, as the two below: False is a whole copy in every process."""
    gradients: bool = False
    optimizer: bool = False
    offloaded: bool = False
    """Optimizer state and weights that are not in use lie in the host's memory."""


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy(name="ddp"),
        Strategy(name="zero2", gradients=True, optimizer=True),
        Strategy(name="zero3", weights=True, gradients=True, optimizer=True),
        Strategy(name="zero3_offload", weights=True, gradients=True, optimizer=True, offloaded=True),
        Strategy(name="fsdp2", weights=True, gradients=True, optimizer=True),
    )
}


def strategy_of(launch_file: Path) -> Strategy:
    """Return the strategy of a configuration of ``accelerate launch``.

    Raises:
        ConfigError: It cannot be read, or asks for something that no strategy here stands for.
    """
    from grpo_mmpc.config.yaml_files import read_yaml  # the table of devices is read by every command

    content = read_yaml(launch_file)
    deepspeed: Mapping[str, Any] = content.get("deepspeed_config") or {}
    stage = deepspeed.get("zero_stage", 0)
    if content.get("distributed_type") == "FSDP":
        return STRATEGIES["fsdp2"]
    if stage == 3:
        offloads = any(
            str(deepspeed.get(f"offload_{part}_device", "none")) != "none" for part in ("optimizer", "param")
        )
        return STRATEGIES["zero3_offload" if offloads else "zero3"]
    if stage == 2:
        return STRATEGIES["zero2"]
    if content.get("distributed_type") in ("NO", "MULTI_GPU", "MULTI_CPU", None) or stage in (0, 1):
        return STRATEGIES["ddp"]
    raise ConfigError([f"{launch_file}: distributed_type {content.get('distributed_type')!r} cannot be planned for"])
