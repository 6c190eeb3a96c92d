"""Protocols of the text encoders, and BERTScore as a metric.

The encoders live in ``grpo_mmpc.encoders``, a layer above; with protocols the metric table imports
no model code.
"""

from collections.abc import Sequence
from typing import Protocol

_PAIRS_AT_ONCE = 1024
"""An encoder holds the token vectors of all texts of a call; pieces keep memory flat."""


class BertScores(Protocol):
    """The F1 of N pairs."""

    @property
    def f1(self) -> list[float]:
        """Harmonic mean of precision and recall."""


class BertScorer(Protocol):
    """The methods of ``grpo_mmpc.encoders.bertscore.BertScoreEncoder`` that metrics call."""

    @property
    def has_baseline(self) -> bool:
        """True if bert-score publishes a rescaling baseline for this model and layer."""

    def score(
        self, *, predictions: Sequence[str], references: Sequence[str], rescale_with_baseline: bool = False
    ) -> BertScores:
        """Return the BERTScore of N pairs."""


class SentenceScorer(Protocol):
    """The method of ``grpo_mmpc.encoders.sentence.SentenceEncoder`` that metrics call."""

    def cosine(self, *, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        """Return the cosines of the sentence embeddings of N pairs."""


def bertscore_f1(*, predictions: Sequence[str], references: Sequence[str], encoder: BertScorer) -> list[float]:
    """Return the BERTScore F1 of N pairs, rescaled with bert-score's baseline where there is one.

    Returns:
        N scores, cut to [0, 1]: below 0 lie pairs less alike than random sentences (rescaled), or
        the breakdown of F1 where precision and recall have opposite signs.

    References:
        Zhang et al. 2020, "BERTScore: Evaluator Text Generation with BERT", section 3 and "Baseline
        Rescaling".
    """
    f1: list[float] = []
    for start in range(0, len(predictions), _PAIRS_AT_ONCE):
        piece = slice(start, start + _PAIRS_AT_ONCE)
        scores = encoder.score(
            predictions=predictions[piece],
            references=references[piece],
            rescale_with_baseline=encoder.has_baseline,
        )
        f1 += [min(1.0, max(0.0, score)) for score in scores.f1]
    return f1
