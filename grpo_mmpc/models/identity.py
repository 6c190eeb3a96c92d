"""What a policy is known by, so that an evaluation is not run twice on the same one."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.config import RunConfig

if TYPE_CHECKING:
    pass


def policy_identity(config: RunConfig, *, adapter: Path | None) -> str:
    """Hash of the base model's name and arguments and of an adapter's files: equal for equal policies.

    Args:
        config: The recipe.
        adapter: Checkpoint folder; None is the base model.
    """
    digest = hashlib.blake2b(json.dumps(config.model.model_dump(mode="json"), sort_keys=True).encode(), digest_size=8)
    if adapter is not None:
        for file in sorted([*adapter.glob("adapter_config.json"), *adapter.glob("adapter_model*")]):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
