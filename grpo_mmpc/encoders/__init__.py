"""Encoders that rewards and metrics share: loaded once per process, batched, every distinct input encoded once.

``bertscore_encoder``, ``clip_encoder``, ``dinov2_encoder``, ``inception_encoder``, ``lpips_scorer``
and ``sentence_encoder`` hand out the one shared encoder of a configuration; ask them rather than
the classes, so that a reward and a metric with the same model hold it once.
"""

from grpo_mmpc.encoders.bertscore import BertScoreEncoder, bertscore_encoder
from grpo_mmpc.encoders.clip import ClipEncoder, clip_encoder
from grpo_mmpc.encoders.dinov2 import DinoEncoder, dinov2_encoder
from grpo_mmpc.encoders.images import open_image
from grpo_mmpc.encoders.inception import InceptionEncoder, inception_encoder
from grpo_mmpc.encoders.lpips import LpipsNetwork, lpips_scorer
from grpo_mmpc.encoders.sentence import SentenceEncoder, sentence_encoder

__all__ = [
    "BertScoreEncoder",
    "ClipEncoder",
    "DinoEncoder",
    "InceptionEncoder",
    "LpipsNetwork",
    "SentenceEncoder",
    "bertscore_encoder",
    "clip_encoder",
    "dinov2_encoder",
    "inception_encoder",
    "lpips_scorer",
    "open_image",
    "sentence_encoder",
]
