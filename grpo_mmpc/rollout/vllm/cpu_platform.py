"""The platform that ``cpu`` names; vLLM imports it so early that nothing else of it is there."""

from vllm.platforms.cpu import CpuPlatform


class OneAdapterCpuPlatform(CpuPlatform):  # type: ignore[misc]
    """vLLM's CPU platform with another LoRA arithmetic."""

    @classmethod
    def get_punica_wrapper(cls) -> str:
        """Return the name of the class that applies adapters."""
        return "grpo_mmpc.rollout.vllm.cpu_lora.OneAdapterPunicaWrapper"
