"""Rewards that know what the titles of the training split have in common, and pay little for it.

They are fitted once, on the reference titles, before the first batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from grpo_mmpc.errors import RewardError
from grpo_mmpc.metrics import text
from grpo_mmpc.metrics.chrf_idf import chrf_idf as weighted_chrf
from grpo_mmpc.metrics.chrf_idf import fit_character_idf
from grpo_mmpc.metrics.metric import is_known
from grpo_mmpc.rewards.declaration import Reward

from .batches import EachPair, PairScores, ScorePairs


def chrf_idf() -> Reward:
    """The chrF2 with character n-grams weighted by how few training titles contain them.

    A stock phrase that all titles share ("Pack of", "Best Value") pays almost nothing; the letters
    that tell this product from others pay most. See ``grpo_mmpc.metrics.chrf_idf``.

    Range: [0, 1]. Needs: the true title, and the training titles to be fitted on (4 s for 10,000,
    and no more are read). Cost: 23 ms for 64 completions.

    Gamed by: over-long titles, since recall counts double, and listing many rare words in the hope
    of one hit, though each miss weighs as much; what is rare is not always what is right.
    """
    return _fitted_reward("chrf_idf", _fit_chrf)


def tfidf_cosine() -> Reward:
    """The cosine of TF-IDF vectors of words and word pairs, fitted on the training titles.

    The function of the metric of the same name, ``grpo_mmpc.metrics.text.fit_tfidf``; the metric is
    fitted on the titles that it is measured on.

    Range: [0, 1]. Needs: the true title, and the training titles to be fitted on. Cost: 3 ms for 64
    completions.

    Gamed by: words that no training title uses, which are free; word salad; and repeating the
    rarest word that is sure to be right.
    """
    return _fitted_reward("tfidf_cosine", text.fit_tfidf)


def _fit_chrf(titles: Sequence[str]) -> PairScores:
    return EachPair(partial(weighted_chrf, idf=fit_character_idf(titles)))


@dataclass
class Fitted:
    """The scores of pairs by a function that comes from the training titles, or images."""

    name: str
    fit_on: Callable[[Sequence[str]], PairScores]
    scores: PairScores | None = None

    def fit(self, titles: Sequence[str]) -> None:
        """Take the function that these titles, or paths, give; earlier ones are forgotten."""
        known = [title for title in titles if is_known(title)]
        if not known:
            raise RewardError(f"{self.name} cannot be fitted: none of {len(titles)} training items has any text")
        self.scores = self.fit_on(known)

    def __call__(self, *, predictions: Sequence[str], references: Sequence[Any]) -> Sequence[float | None]:
        """Score N pairs."""
        if self.scores is None:
            raise RewardError(
                f"{self.name} was not fitted; call its fit(titles) with the reference titles of the training split, "
                "or fit_images(paths), before the first batch"
            )
        return self.scores(predictions=predictions, references=references)


def _fitted_reward(name: str, fit_on: Callable[[Sequence[str]], PairScores]) -> Reward:
    fitted = Fitted(name, fit_on)
    return Reward(
        score=ScorePairs(fitted),
        value_range=(0.0, 1.0),
        targets=("text",),
        needs=("reference", "corpus"),
        fit=fitted.fit,
    )
