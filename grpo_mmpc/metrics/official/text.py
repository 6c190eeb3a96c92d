"""The official benchmark's text metrics, quirks included, to compare with published numbers only.

``docs/evaluation.md`` ("Paper mode") lists them. They follow MMPCBench (arXiv 2601.19750) and its
public code; none of that code is used.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from itertools import pairwise
from typing import NamedTuple

from grpo_mmpc.metrics import text
from grpo_mmpc.metrics.metric import Metric, MetricInputs, shielded, unscored
from grpo_mmpc.metrics.table import PairScorer, score_each

logger = logging.getLogger(__name__)

ERROR_TEXT = "error"
"""Text of the official pipeline in place of a completion that does not parse."""

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_MAX_FEATURES = 1000
_IDF_OF_ONE = math.log(3 / 2) + 1  # smoothed idf of a term in 1 of 2 texts; in 2 of 2 it is ln(3/3) + 1 = 1
_PAIRS_AT_ONCE = 1024


class TfidfSimilarity(NamedTuple):
    """Similarity of the TF-IDF vectors of two texts."""

    cosine: float
    euclidean: float
    """1 / (1 + distance)."""


def tfidf_similarity(*, prediction: str, reference: str) -> TfidfSimilarity:
    """Return cosine and Euclidean similarity of TF-IDF vectors fitted on these two texts alone.

    Equals scikit-learn's ``TfidfVectorizer(stop_words="english", ngram_range=(1, 2),
    max_features=1000)`` fitted on the two cleaned texts. With two documents an idf has two possible
    values, so that no fitting is needed; a pair with more than 1000 distinct terms goes through
    scikit-learn, whose choice among equally frequent terms is its own.

    Returns:
        Two scores in [0, 1]; both 0 where neither text has a term.
    """
    first, second = ascii_words(prediction), ascii_words(reference)
    counts, other_counts = _term_counts(first), _term_counts(second)
    if not counts and not other_counts:
        return TfidfSimilarity(0.0, 0.0)  # the vectoriser finds an empty vocabulary, which the official script calls 0
    shared = counts.keys() & other_counts.keys()
    if len(counts) + len(other_counts) - len(shared) > _MAX_FEATURES:
        return _tfidf_of_sklearn(" ".join(first), " ".join(second))
    squared, other_squared = _squared_norm(counts, shared), _squared_norm(other_counts, shared)
    if not squared or not other_squared:
        return TfidfSimilarity(0.0, 0.5)  # a zero vector lies at distance 1 of a unit vector
    cosine = min(1.0, sum(counts[term] * other_counts[term] for term in shared) / math.sqrt(squared * other_squared))
    return TfidfSimilarity(cosine, 1 / (1 + math.sqrt(2 - 2 * cosine)))


def ascii_words(text: str) -> list[str]:
    """Split a text into lower-cased runs of a-z and 0-9."""
    return _ASCII_WORD.findall(text.lower())


def jaccard(*, prediction: str, reference: str) -> float:
    """Return shared words over all words of the cleaned texts, as sets; 0 where either is empty."""
    predicted, expected = set(ascii_words(prediction)), set(ascii_words(reference))
    return len(predicted & expected) / len(predicted | expected) if predicted and expected else 0.0


def swapped_bleu(*, prediction: str, reference: str) -> float:
    """Return unsmoothed BLEU-4 (13a tokens) of the *reference* against the *prediction*.

    Returns:
        Score in [0, 1]; 0 as soon as one order has no match.

    References:
        Papineni et al. 2002, with the arguments exchanged as in the official script.
    """
    statistics = text.bleu_statistics(prediction=reference, reference=prediction, by_script=False)
    if 0 in statistics.matches:
        return 0.0
    precisions = [matches / total for matches, total in zip(statistics.matches, statistics.totals, strict=True)]
    penalty = min(0.0, 1 - statistics.reference_tokens / statistics.prediction_tokens)
    return math.exp(penalty + math.fsum(map(math.log, precisions)) / text.BLEU_ORDER)


def aborted_categories(inputs: MetricInputs) -> dict[str, str]:
    """Return categories that the official script gives up, with the reason; ``""`` = the set."""
    categories = inputs.categories or [""] * len(inputs.references)
    missing = Counter(c for c, reference in zip(categories, inputs.references, strict=True) if reference is None)
    return {
        category: f"{count} {'item' if count == 1 else 'items'} without a title" for category, count in missing.items()
    }


def _score_pairs(inputs: MetricInputs, *, scorer_of: Callable[[MetricInputs], PairScorer | None]) -> list[float]:
    """Score pairs of two non-empty texts; 0 for other pairs, NaN throughout an aborted category."""
    scorer = scorer_of(inputs)
    if scorer is None:
        return unscored(inputs)
    categories = inputs.categories or [""] * len(inputs.references)
    aborted = aborted_categories(inputs)
    for category, reason in aborted.items():
        _log_once(category, reason)
    scores = [math.nan if category in aborted else 0.0 for category in categories]
    positions: list[int] = []
    predictions: list[str] = []
    references: list[str] = []
    for i, (predicted, reference) in enumerate(zip(inputs.predictions, inputs.references, strict=True)):
        prediction = ERROR_TEXT if predicted is None else predicted
        if categories[i] in aborted or reference is None:
            continue
        if ascii_words(prediction) and ascii_words(reference):
            positions.append(i)
            predictions.append(prediction)
            references.append(reference)
    # Piece by piece: an encoder holds the token vectors of every text of a call.
    for start in range(0, len(positions), _PAIRS_AT_ONCE):
        piece = slice(start, start + _PAIRS_AT_ONCE)
        values = scorer(predictions=predictions[piece], references=references[piece])
        for i, score in zip(positions[piece], values, strict=True):
            scores[i] = score
    return scores


@lru_cache(maxsize=1024)
def _log_once(category: str, reason: str) -> None:
    """Log an aborted category once, although each of the six metrics meets it."""
    where = f"category {category}" if category else "all items"
    logger.warning("paper mode leaves %s unscored: %s, and the official script gives up there", where, reason)


def _bertscore_f1(inputs: MetricInputs) -> PairScorer | None:
    encoder = inputs.bertscore
    if encoder is None:
        return None

    def score(*, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        pairs = {"predictions": predictions, "references": references}
        scores = shielded(inputs, "bertscore", lambda: encoder.score(**pairs))
        return [math.nan] * len(predictions) if scores is None else list(scores.f1)

    return score


def _term_counts(words: Sequence[str]) -> Counter[str]:
    """Count words of two characters and more, without stop words, and neighbouring pairs."""
    stop_words = _stop_words()
    kept = [word for word in words if len(word) > 1 and word not in stop_words]
    counts = Counter(kept)
    counts.update(map(" ".join, pairwise(kept)))
    return counts


def _squared_norm(counts: Counter[str], shared: set[str]) -> float:
    return sum(count**2 * (1.0 if term in shared else _IDF_OF_ONE**2) for term, count in counts.items())


def _tfidf_of_sklearn(first: str, second: str) -> TfidfSimilarity:
    from sklearn.feature_extraction.text import TfidfVectorizer  # heavy: imported on use
    from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

    vectorizer = TfidfVectorizer(stop_words="english", ngram_range=(1, 2), max_features=_MAX_FEATURES)
    vectors = vectorizer.fit_transform([first, second])
    distance = float(euclidean_distances(vectors[:1], vectors[1:])[0, 0])
    return TfidfSimilarity(float(cosine_similarity(vectors[:1], vectors[1:])[0, 0]), 1 / (1 + distance))


def _tfidf_cosine(*, prediction: str, reference: str) -> float:
    return tfidf_similarity(prediction=prediction, reference=reference).cosine


def _tfidf_euclidean(*, prediction: str, reference: str) -> float:
    return tfidf_similarity(prediction=prediction, reference=reference).euclidean


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # heavy: imported on use

    return frozenset(ENGLISH_STOP_WORDS)


def _metric(name: str, scorer_of: Callable[[MetricInputs], PairScorer | None], description: str) -> Metric:
    score = partial(_score_pairs, scorer_of=scorer_of)
    return Metric(name=name, targets=("text",), description=f"paper mode: {description}", score=score)


PAPER_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _metric("tfidf_cosine", score_each(_tfidf_cosine), "TF-IDF cosine, fitted on each pair"),
        _metric(
            "tfidf_euclidean",
            score_each(_tfidf_euclidean),
            "1 / (1 + distance) of the same vectors: the cosine again",
        ),
        _metric("jaccard", score_each(jaccard), "shared words over all words"),
        _metric("word_overlap", score_each(jaccard), "the same formula as jaccard"),
        _metric("bertscore_f1", _bertscore_f1, "BERTScore F1, not rescaled"),
        _metric("bleu", score_each(swapped_bleu), "unsmoothed BLEU-4, arguments swapped"),
    )
}
"""The official text metrics by name; the module lists their quirks."""
