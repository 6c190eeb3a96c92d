"""From a resolved configuration to GRPO updates: TRL's trainer, our rollout records, callbacks and manifest.

The modules of this package import Transformers and TRL, which import torchvision; it must be
importable by then. TRL also imports vLLM, which decides on its platform there and then.
"""

from grpo_mmpc.rollout.vllm.cpu import switch_on
from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()
switch_on()
