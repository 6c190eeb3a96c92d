"""From a resolved configuration to GRPO updates: TRL's trainer, our rollout records, callbacks and manifest.

The modules of this package import Transformers and TRL, which import torchvision; it must be importable by then.
"""

from grpo_mmpc.cpu_compat import ensure_importable

ensure_importable()
