"""Meaning of two texts compared by an encoder that the caller owns; scores of pairs, computed in one batch.

The encoders live in ``grpo_mmpc.encoders``, which is a layer above: here they are only shapes, so
that the metric table imports no model code.
"""

from collections.abc import Sequence
from typing import Protocol

_PAIRS_AT_ONCE = 1024
"""An encoder holds the token vectors of every text of a call: memory stays flat whatever the number
of items."""


class BertScores(Protocol):
    """Precision, recall and F1 of N pairs."""

    @property
    def precision(self) -> list[float]:
        """How much of the prediction the reference supports."""

    @property
    def recall(self) -> list[float]:
        """How much of the reference the prediction covers."""

    @property
    def f1(self) -> list[float]:
        """Harmonic mean of the two."""


class BertScorer(Protocol):
    """What ``grpo_mmpc.encoders.bertscore.BertScoreEncoder`` offers."""

    @property
    def has_baseline(self) -> bool:
        """Whether bert-score publishes a rescaling baseline for this model and layer."""

    def score(
        self, *, predictions: Sequence[str], references: Sequence[str], rescale_with_baseline: bool = False
    ) -> BertScores:
        """BERTScore of N pairs."""


class SentenceScorer(Protocol):
    """What ``grpo_mmpc.encoders.sentence.SentenceEncoder`` offers."""

    def cosine(self, *, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        """Cosines of the sentence embeddings of N pairs."""


def bertscore_f1(*, predictions: Sequence[str], references: Sequence[str], encoder: BertScorer) -> list[float]:
    """BERTScore F1 of N pairs, rescaled with bert-score's baseline where one exists for the model.

    Returns:
        N scores, cut to [0, 1]: below 0 lie pairs less alike than random sentences (rescaled), or
        the breakdown of F1 where precision and recall have opposite signs.

    References:
        Zhang et al. 2020, "BERTScore: Evaluator Text Generation with BERT", section 3 and "Baseline
        Rescaling".
    """
    found: list[float] = []
    for start in range(0, len(predictions), _PAIRS_AT_ONCE):
        piece = slice(start, start + _PAIRS_AT_ONCE)
        scores = encoder.score(
            predictions=predictions[piece],
            references=references[piece],
            rescale_with_baseline=encoder.has_baseline,
        )
        found += [min(1.0, max(0.0, score)) for score in scores.f1]
    return found


def embedding_cosine(*, predictions: Sequence[str], references: Sequence[str], encoder: SentenceScorer) -> list[float]:
    """Cosines of sentence embeddings of N pairs, in [-1, 1]."""
    return encoder.cosine(predictions=predictions, references=references)
