"""A faster LoRA on vLLM's CPU platform, through vLLM's own extension point for platforms.

vLLM's PyTorch LoRA takes any mix of adapters and gathers an adapter's weights once for every token:
of a rollout batch on a CPU, which has one adapter, three quarters of the time. With one adapter for
all tokens it is two matrix products.

The entry point (group ``vllm.platform_plugins``) does nothing unless ``SWITCH`` is set, which our
engines do for themselves.
"""

import os

PLUGIN = "grpo_mmpc_cpu"
"""What ``VLLM_PLUGINS`` must name, where it is set."""
SWITCH = "GRPO_MMPC_VLLM_CPU"
"""Environment variable: 1 has vLLM use the platform, any other value keeps vLLM's own."""


def switch_on() -> None:
    """Ask for the platform in this process and its children; before vLLM is imported, which TRL does too."""
    os.environ.setdefault(SWITCH, "1")


def platform() -> str | None:
    """The entry point: name of the platform class, None to leave vLLM its own."""
    if os.environ.get(SWITCH) != "1":
        return None
    # heavy: imported on use
    from vllm.platforms import cpu_platform_plugin

    # vLLM has others for special builds (zentorch): those know better.
    if cpu_platform_plugin() != "vllm.platforms.cpu.CpuPlatform":
        return None
    return "grpo_mmpc.rollout.vllm.cpu_platform.OneAdapterCpuPlatform"
