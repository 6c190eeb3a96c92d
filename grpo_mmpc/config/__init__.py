"""The one configuration object: its sections, and how recipes and overrides become one.

``trainer`` and ``adapter`` hold the fields of TRL's ``GRPOConfig`` and PEFT's ``LoraConfig`` under
their own names and are checked where those libraries are loaded.
"""

from grpo_mmpc.config.loading import is_file, load_as, load_config, split_words
from grpo_mmpc.config.problems import nearest, schema_problems
from grpo_mmpc.config.rewards import RewardSpec
from grpo_mmpc.config.sections import EncodersSection, EvaluationSection, ModelSection, RunConfig
from grpo_mmpc.config.yaml_files import read_yaml

__all__ = [
    "EncodersSection",
    "EvaluationSection",
    "ModelSection",
    "RewardSpec",
    "RunConfig",
    "is_file",
    "load_as",
    "load_config",
    "nearest",
    "read_yaml",
    "schema_problems",
    "split_words",
]
