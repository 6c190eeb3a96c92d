"""The reward bench: separation of the true answer from wrong ones, speed, and repeatability."""

from grpo_mmpc.analysis.reward_bench.bench import preview
from grpo_mmpc.analysis.reward_bench.results import Preview, RewardResult
from grpo_mmpc.analysis.reward_bench.text import lines

__all__ = ["Preview", "RewardResult", "lines", "preview"]
