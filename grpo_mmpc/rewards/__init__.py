"""From the recipe's named reward specs to TRL reward functions and weights, and what their values say."""

from grpo_mmpc.rewards.advantages import advantages
from grpo_mmpc.rewards.loading import (
    LoadedReward,
    build_reward,
    check_mix,
    load_factory,
    registered_rewards,
    reward_key,
)
from grpo_mmpc.rewards.rubric import TRL_KEYWORDS, RewardMix, ScoredBatch, completion_text

__all__ = [
    "TRL_KEYWORDS",
    "LoadedReward",
    "RewardMix",
    "ScoredBatch",
    "advantages",
    "build_reward",
    "check_mix",
    "completion_text",
    "load_factory",
    "registered_rewards",
    "reward_key",
]
