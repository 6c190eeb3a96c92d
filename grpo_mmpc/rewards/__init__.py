"""The reward room: from named specs to TRL reward functions, and to the signal in their values."""

from grpo_mmpc.rewards.advantages import advantages
from grpo_mmpc.rewards.loading import (
    LoadedReward,
    build_reward,
    check_mix,
    load_factory,
    registered_rewards,
)
from grpo_mmpc.rewards.mix import RewardMix, completion_text, neutral

__all__ = [
    "LoadedReward",
    "RewardMix",
    "advantages",
    "build_reward",
    "check_mix",
    "completion_text",
    "load_factory",
    "neutral",
    "registered_rewards",
]
