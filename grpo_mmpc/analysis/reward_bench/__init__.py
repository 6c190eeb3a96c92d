"""How well rewards tell the true answer from answers that should lose, how fast they are, and whether they repeat."""

from grpo_mmpc.analysis.reward_bench.bench import preview
from grpo_mmpc.analysis.reward_bench.results import Preview, RewardResult
from grpo_mmpc.analysis.reward_bench.text import told

__all__ = ["Preview", "RewardResult", "preview", "told"]
