"""BERTScore as a metric."""

import math
from collections.abc import Sequence
from typing import Any

_PAIRS_AT_ONCE = 1024
"""An encoder holds the token vectors of all texts of a call; pieces keep memory flat."""


def bertscore_f1(*, predictions: Sequence[str], references: Sequence[str], encoder: Any) -> list[float]:
    """Return the BERTScore F1 of N pairs, rescaled with bert-score's baseline where there is one.

    ``encoder`` is a ``grpo_mmpc.encoders.bertscore.BertScoreEncoder``.

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
        f1 += [score if math.isnan(score) else min(1.0, max(0.0, score)) for score in scores.f1]
    return f1
