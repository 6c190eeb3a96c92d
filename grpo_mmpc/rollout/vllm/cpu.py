"""Settings of vLLM on a CPU, and a faster LoRA there through vLLM's entry point for platforms.

vLLM's PyTorch LoRA takes any mix of adapters and gathers an adapter's weights once for every token:
three quarters of the time of a rollout batch on a CPU. With one adapter for all tokens, as rollouts
have it, two matrix products do the same.

The entry point (group ``vllm.platform_plugins``) does nothing unless ``SWITCH`` is set, which our
engines do for themselves. vLLM imports ``cpu_platform`` and ``cpu_lora`` by name, the first so
early that the second could not be imported yet: hence three files.
"""

import os

PLUGIN = "grpo_mmpc_cpu"
"""The name that ``VLLM_PLUGINS`` must hold, where it is set."""
SWITCH = "GRPO_MMPC_VLLM_CPU"
"""Environment variable: 1 has vLLM use the platform, any other value keeps vLLM's own."""


def cpu_environment() -> dict[str, str]:
    """Return variables for vLLM beside a trainer on a CPU; a value that is already set wins."""
    defaults = {
        SWITCH: "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads stay where they are
    }
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def platform() -> str | None:
    """Return the name of the platform class, or None to leave vLLM its own: the entry point."""
    if os.environ.get(SWITCH) != "1":
        return None
    # heavy: imported on use
    from vllm.platforms import cpu_platform_plugin

    # vLLM has others for special builds (zentorch): those know better.
    if cpu_platform_plugin() != "vllm.platforms.cpu.CpuPlatform":
        return None
    return "grpo_mmpc.rollout.vllm.cpu_platform.OneAdapterCpuPlatform"
