"""The one configuration object: its sections, and how recipes and overrides become one.

``trainer`` and ``adapter`` hold the fields of TRL's ``GRPOConfig`` and PEFT's ``LoraConfig`` under
their own names and are checked where those libraries are loaded.
"""

from grpo_mmpc.config.loading import load_as, load_config, nearest, read_yaml
from grpo_mmpc.config.rewards import RewardSpec
from grpo_mmpc.config.sections import EncodersSection, EvaluationSection, ModelSection, RunConfig
from grpo_mmpc.recbench.settings import RecBenchSection

__all__ = [
    "EncodersSection",
    "EvaluationSection",
    "ModelSection",
    "RecBenchSection",
    "RewardSpec",
    "RunConfig",
    "load_as",
    "load_config",
    "nearest",
    "read_yaml",
]
