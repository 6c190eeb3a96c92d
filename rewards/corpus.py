"""Rewards that know what the titles of the training split have in common, and pay little for it.

They are fitted once, on the reference titles, before the first batch.
"""

from collections.abc import Callable, Sequence

from grpo_mmpc.errors import RewardError
from grpo_mmpc.metrics import text
from grpo_mmpc.metrics.chrf_idf import chrf_idf as weighted_chrf
from grpo_mmpc.metrics.chrf_idf import fit_character_idf

from .batches import is_known, score_pairs
from .declaration import Reward


def chrf_idf() -> Reward:
    """chrF2 with character n-grams weighted by how few training titles contain them.

    A stock phrase that all titles share ("Pack of", "Best Value") pays almost nothing; the letters
    that tell this product from others pay most. See ``grpo_mmpc.metrics.chrf_idf``.

    Range: [0, 1]. Needs: the true title, and the training titles to be fitted on (4 s for 10,000,
        and no more are read).
    Cost: 23 ms for 64 completions.

    Gamed by: over-long titles, since recall counts double, and listing many rare words in the hope
    of one hit, though each miss weighs as much; what is rare is not always what is right.
    """

    def fitted_on(titles: Sequence[str]) -> Callable[[Sequence[str], Sequence[str]], list[float]]:
        idf = fit_character_idf(titles)
        return lambda predictions, references: [
            weighted_chrf(prediction=prediction, reference=reference, idf=idf)
            for prediction, reference in zip(predictions, references, strict=True)
        ]

    return _fitted("chrf_idf", fitted_on)


def tfidf_cosine() -> Reward:
    """Cosine of TF-IDF vectors of words and word pairs, with frequencies of the training titles.

    The function of the metric of the same name, ``grpo_mmpc.metrics.text.fit_tfidf``; the metric is
    fitted on the titles that it is measured on.

    Range: [0, 1]. Needs: the true title, and the training titles to be fitted on. Cost: 3 ms for 64
        completions.

    Gamed by: words that no training title uses, which are free; word salad; and repeating the
    rarest word that is sure to be right. Digits and a-z only: a title in another script has no
    words and scores 0.
    """

    def fitted_on(titles: Sequence[str]) -> Callable[[Sequence[str], Sequence[str]], list[float]]:
        scorer = text.fit_tfidf(titles)
        return lambda predictions, references: scorer(predictions=predictions, references=references)

    return _fitted("tfidf_cosine", fitted_on)


def _fitted(
    name: str, fitted_on: Callable[[Sequence[str]], Callable[[Sequence[str], Sequence[str]], list[float]]]
) -> Reward:
    """A reward whose scorer of pairs comes from the training titles."""
    scorer: Callable[[Sequence[str], Sequence[str]], list[float]] | None = None

    def fit(titles: Sequence[str]) -> None:
        nonlocal scorer
        known = [title for title in titles if is_known(title)]
        if not known:
            raise RewardError(f"{name} cannot be fitted: none of {len(titles)} training titles has any text")
        scorer = fitted_on(known)

    def score(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        if scorer is None:
            raise RewardError(
                f"{name} was not fitted; call its fit(titles) with the reference titles of the training split before the "
                "first batch"
            )
        return scorer(predictions, references)

    return Reward(
        score=score_pairs(score),
        value_range=(0.0, 1.0),
        tasks=("image_to_text",),
        needs=("reference", "corpus"),
        fit=fit,
    )
