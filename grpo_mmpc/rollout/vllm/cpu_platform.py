"""The platform that ``vllm_cpu`` names; imported by vLLM so early that it may import nothing else of it."""

from vllm.platforms.cpu import CpuPlatform


class OneAdapterCpuPlatform(CpuPlatform):  # type: ignore[misc]
    """vLLM's CPU platform with another LoRA arithmetic."""

    @classmethod
    def get_punica_wrapper(cls) -> str:
        """Name of the class that applies adapters."""
        return "grpo_mmpc.rollout.vllm.cpu_lora.OneAdapterPunicaWrapper"
