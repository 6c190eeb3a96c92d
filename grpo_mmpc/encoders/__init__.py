"""Encoders that rewards and metrics share: loaded once per process, each input encoded once.

``bertscore_encoder``, ``clip_encoder``, ``dinov2_encoder``, ``inception_encoder``,
``lpips_scorer``, ``sentence_encoder`` and ``vit_encoder`` return the one shared encoder of a
configuration; call them rather than the classes, so that a reward and a metric with the same model
hold it once. They load it on the first call and take:

- ``model``: hub name, local folder or an embedded model such as ``nano:clip``;
- ``device``: None takes the GPU of this process if there is one;
- ``dtype``: precision of the model: ``float32``, ``bfloat16`` or ``float16``.

They raise ``ScoringError`` where a model cannot be loaded, or for an unknown device or precision.
Encodings of references and of image files are kept on disk (``store``).
"""

from grpo_mmpc.encoders.bertscore import bertscore_encoder
from grpo_mmpc.encoders.clip import clip_encoder
from grpo_mmpc.encoders.dinov2 import dinov2_encoder
from grpo_mmpc.encoders.images import open_image
from grpo_mmpc.encoders.inception import inception_encoder
from grpo_mmpc.encoders.lpips import lpips_scorer
from grpo_mmpc.encoders.sentence import sentence_encoder

__all__ = [
    "bertscore_encoder",
    "clip_encoder",
    "dinov2_encoder",
    "inception_encoder",
    "lpips_scorer",
    "open_image",
    "sentence_encoder",
]
