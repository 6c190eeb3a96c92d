"""chrF with character n-grams weighted by inverse document frequency in a corpus of titles."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

ORDER = 6
BETA = 2.0
MAX_FITTED_TITLES = 10_000
"""Titles that frequencies are counted on, spread evenly over the corpus. A phrase that is common in
a catalogue is common in so many of them, and the count stays within 200 MB for each process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CharacterIdf:
    """Weights of character n-grams, all positive."""

    weights: Mapping[str, float]
    """By n-gram, for those of at least two titles."""
    rare_weight: float
    """The weight of every other n-gram."""

    def total(self, counts: Mapping[str, int]) -> float:
        """Sum the weights of all n-grams, each as often as it is counted."""
        weight_of, rare_weight = self.weights.get, self.rare_weight
        return math.fsum([count * weight_of(ngram, rare_weight) for ngram, count in counts.items()])


def fit_character_idf(titles: Sequence[str]) -> CharacterIdf:
    """Fit inverse document frequencies of the character 1- to 6-grams of a corpus.

    ``log(1 + (N - n + 0.5) / (n + 0.5))`` for an n-gram that n of the N titles contain, the form
    that BM25 uses. An n-gram of a single title and one of no title weigh the same. The weights
    depend on the order of more than ``MAX_FITTED_TITLES`` titles.

    References:
        Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond",
        section 3.
    """
    if not titles:
        raise ValueError("no title to count the n-grams of")
    count = min(len(titles), MAX_FITTED_TITLES)
    frequencies: Counter[str] = Counter()
    for position in range(count):
        frequencies.update(set().union(*_ngrams(titles[position * len(titles) // count])))

    def weight(frequency: int) -> float:
        return math.log1p((count - frequency + 0.5) / (frequency + 0.5))

    return CharacterIdf(
        # Most n-grams occur in one title only; held, they would take most of the memory.
        weights={ngram: weight(frequency) for ngram, frequency in frequencies.items() if frequency > 1},
        rare_weight=weight(1),
    )


def chrf_idf(*, prediction: str, reference: str, idf: CharacterIdf) -> float:
    """Return chrF2 with every n-gram counted as often as it weighs.

    Precision and recall of an order are shares of weight; they are averaged over the orders that
    the reference has, and recall counts double. With equal weights and six characters on both sides
    this is ``text.chrf``. The orders follow the reference, not the prediction: otherwise a
    prediction of one rare letter would be judged by that letter alone. The score lies in [0, 1] and
    is 0 where a side is empty.
    """
    predicted, expected = _ngrams(prediction), _ngrams(reference)
    precision = recall = 0.0
    num_orders = sum(map(bool, expected))
    for of_prediction, of_reference in zip(predicted, expected, strict=True):
        hits = {
            ngram: min(of_prediction[ngram], of_reference[ngram])
            for ngram in of_prediction.keys() & of_reference.keys()
        }
        if hits:
            weight = idf.total(hits)
            precision += weight / idf.total(of_prediction) / num_orders
            recall += weight / idf.total(of_reference) / num_orders
    if not precision:
        return 0.0
    return min(1.0, (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall))


@lru_cache(maxsize=256)
def _ngrams(text: str) -> tuple[Counter[str], ...]:
    # cached: the completions of a group share their reference
    characters = "".join(text.split())
    return tuple(
        Counter(characters[start : start + order] for start in range(len(characters) - order + 1))
        for order in range(1, ORDER + 1)
    )
