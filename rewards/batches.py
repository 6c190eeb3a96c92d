"""Batch reward functions from functions of one text or pair; repeated ones are scored once."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from grpo_mmpc.metrics.metric import accepted_texts, best_over_references, is_known

PairScores = Callable[..., Sequence[float | None]]
"""Scores N pairs, given as ``predictions`` and ``references``; never called without a pair."""


def distinct_titles(references: Iterable[str | None]) -> list[str]:
    """Return the known titles once each, in order."""
    return list(dict.fromkeys(reference for reference in references if is_known(reference)))


@dataclass(frozen=True, slots=True)
class ScoreTexts:
    """A reward function that judges each prediction by itself."""

    function: Callable[[str], float]

    def __call__(self, *, predictions: list[str], **_columns: list[Any]) -> list[float | None]:
        """Score N predictions."""
        scores = {prediction: self.function(prediction) for prediction in dict.fromkeys(predictions)}
        return [scores[prediction] for prediction in predictions]


@dataclass(frozen=True, slots=True)
class ScorePairs:
    """A reward function that compares each prediction with the best of its references.

    None without one, and where the function gives NaN: the pair cannot be judged.
    """

    function: PairScores
    together: bool = False
    """True if the function takes all references of a prediction at once, as a tuple."""

    def __call__(
        self,
        *,
        predictions: list[str],
        references: list[str | None],
        more_references: list[Sequence[str] | None] | None = None,
        **_columns: list[Any],
    ) -> list[float | None]:
        """Score N predictions."""
        accepted = map(accepted_texts, references, more_references or [None] * len(references))
        pairs = list(zip(predictions, accepted, strict=True))
        distinct = list(dict.fromkeys(pair for pair in pairs if pair[1]))
        scores: dict[tuple[str, tuple[str, ...]], float | None] = {}
        if distinct:
            predictions, known = [list(column) for column in zip(*distinct, strict=True)]
            function = self.function if self.together else partial(best_over_references, self.function)
            values = function(predictions=predictions, references=known)
            scores.update(zip(distinct, values, strict=True))
        return [None if (score := scores.get(pair)) is None or math.isnan(score) else score for pair in pairs]


@dataclass(frozen=True, slots=True)
class EachPair:
    """The scores of N pairs by a function of one prediction and one reference, in [0, 1]."""

    function: Callable[..., float]
    """Called with ``prediction`` and ``reference``."""

    def __call__(self, *, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        """Score N pairs; rounding may leave a perfect score a hair above 1, which is cut."""
        return [
            min(1.0, self.function(prediction=prediction, reference=reference))
            for prediction, reference in zip(predictions, references, strict=True)
        ]
