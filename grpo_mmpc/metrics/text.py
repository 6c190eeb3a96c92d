"""Overlap of two texts as pure functions of ``prediction`` and ``reference``; scores lie in [0, 1].

Rewards and evaluation call these same functions. The two texts travel by keyword only: swapping
them changes BLEU.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, reduce
from itertools import pairwise
from operator import or_
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLEU_ORDER = 4
SMOOTHINGS = ("method1", "method2", "method3")
"""nltk's smoothing methods that are defined for texts of any length (5 to 7 are not)."""

_VULGAR_FRACTION = re.compile("([\u00bc-\u00be\u2150-\u215e\u2189])")
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u30fc"
"""Scripts without spaces between words."""
_WORD = (
    r"(?:(?<![^\s(])-(?=[.\p{Nd}]))?(?:(?<![\p{L}\p{Nd}.])\.)?\p{Nd}+(?:[.,/]\p{Nd}+)*"  # 2.5, .5, 1/2, 1,000, -2
    rf"|[{_UNSPACED}]\p{{M}}*"
    rf"|(?:(?![{_UNSPACED}])\p{{L}})(?:(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{Nd}}])*(?:(?<=\p{{Nd}})[.,/]\p{{Nd}}+)*"
)
_ASCII_WORD = re.compile(  # the same, several times as fast
    r"[a-z][a-z0-9]*(?:(?<=[0-9])[.,/][0-9]+)*|(?:(?<![^\s(])-(?=[.0-9]))?(?:(?<![a-z0-9.])\.)?[0-9]+(?:[.,/][0-9]+)*"
)
_UNIT_MARKS = frozenset("%\"\u201d'\u2019\u2032")
_MARKED_UNIT = re.compile(
    r"(?<=\d)(?: ?(?P<percent>%)|(?P<in>\"|\u201d|''|\u2032\u2032)|(?P<ft>['\u2019\u2032])(?!s\b))"
)
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?")


class BleuStatistics(NamedTuple):
    """Sufficient statistics of BLEU; those of a corpus are the sum over its items."""

    prediction_tokens: int
    reference_tokens: int
    matches: tuple[int, ...]
    """Clipped n-gram matches for n = 1..4."""
    totals: tuple[int, ...]
    """Predicted n-grams for n = 1..4."""

    def flat(self) -> tuple[int, ...]:
        """Return the ten numbers in the order of ``corpus_bleu``."""
        return (self.prediction_tokens, self.reference_tokens, *self.matches, *self.totals)


def bleu_statistics(*, prediction: str, reference: str | Sequence[str], by_script: bool = True) -> BleuStatistics:
    """Count the clipped n-gram matches of one pair on sacrebleu's 13a tokens; case matters.

    Of several references an n-gram matches as often as it occurs in any, and the length is that of
    the one closest to the prediction's, of two the shorter, as in sacrebleu.

    ``by_script`` splits scripts without spaces into characters, as sacrebleu's ``char`` does: to
    13a a Japanese title is one word.

    A malformed prediction enters a corpus as the empty text: no matches, no n-grams, and its
    reference's length still counts against the brevity penalty.
    """
    predicted = _ngram_counts(prediction, by_script=by_script)
    texts = (reference,) if isinstance(reference, str) else reference
    first, *others = (_ngram_counts(text, by_script=by_script) for text in texts)
    length = predicted.num_tokens
    expected = reduce(or_, (other.counts for other in others), first.counts)
    matches = [0] * BLEU_ORDER
    for ngram in predicted.counts.keys() & expected.keys():
        matches[len(ngram) - 1] += min(predicted.counts[ngram], expected[ngram])
    lengths = (first.num_tokens, *(other.num_tokens for other in others))
    return BleuStatistics(
        prediction_tokens=length,
        reference_tokens=min(lengths, key=lambda tokens: (abs(tokens - length), tokens)),
        matches=tuple(matches),
        totals=tuple(max(0, length - n) for n in range(BLEU_ORDER)),
    )


def bleu(*, prediction: str, reference: str | Sequence[str], smoothing: str = "method3") -> float:
    """Return smoothed sentence BLEU, as nltk's ``sentence_bleu`` gives it on 13a tokens.

    The highest n-gram order is 4, or the number of reference tokens where that is smaller, with
    uniform weights: a three-word title can be matched perfectly (1.0) and is never constantly 0.
    The order follows the reference, not the prediction, so a short prediction cannot lower the bar.
    Of several references it is that of the closest in length, and matches are those of
    ``bleu_statistics``.
    Without a single matching token, or with an empty side, the score is 0.

    Args:
        prediction: The policy's text.
        reference: The true text, or several that are all right.
        smoothing: nltk's ``SmoothingFunction`` method for orders without a match. ``method3``
            (NIST, mteval-v13a; what sacrebleu calls ``exp``): the k-th such order counts 1/2^k
            matches. ``method2`` adds one to matches and totals above unigrams, ``method1`` counts
            0.1 matches.

    References:
        Papineni et al. 2002; Chen and Cherry 2014, "A Systematic Comparison of Smoothing Techniques
        for Sentence-Level BLEU", methods 1 to 3.
    """
    if smoothing not in SMOOTHINGS:
        raise ValueError(f"smoothing must be one of {', '.join(SMOOTHINGS)}, found {smoothing!r}")
    statistics = bleu_statistics(prediction=prediction, reference=reference)
    if statistics.matches[0] == 0:
        return 0.0
    from nltk.translate import bleu_score  # heavy: imported on use

    order = min(BLEU_ORDER, statistics.reference_tokens)
    # nltk counts the n-grams of the reference again for every prediction of a group; here the
    # counts come from a cache, twice as fast; smoothing and penalty are nltk's.
    precisions = [
        bleu_score.Fraction(matches, max(1, total), _normalize=False)
        for matches, total in zip(statistics.matches[:order], statistics.totals[:order], strict=True)
    ]
    smoothed = getattr(bleu_score.SmoothingFunction(), smoothing)(precisions)
    penalty = bleu_score.brevity_penalty(statistics.reference_tokens, statistics.prediction_tokens)
    return float(penalty * math.exp(math.fsum(math.log(p) for p in smoothed) / order))


def corpus_bleu(statistics: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return corpus BLEU-4 from summed statistics: sacrebleu's ``corpus_bleu`` (13a, exp) over 100.

    ``statistics`` are sums over items of ``BleuStatistics.flat``, shape [..., 10]: all resamples of
    a bootstrap are computed at once.
    """
    import numpy as np  # heavy: imported on use

    predicted, expected = statistics[..., 0], statistics[..., 1]
    matches, totals = statistics[..., 2:6], statistics[..., 6:10]
    empty_orders = (matches == 0) & (totals > 0)
    halvings = np.exp2(np.cumsum(empty_orders, axis=-1))
    precisions = np.where(empty_orders, 1.0 / halvings, matches) / np.maximum(totals, 1)
    possible = (matches[..., 0] > 0) & (totals[..., -1] > 0)
    geometric = np.exp(np.log(np.where(possible[..., None], precisions, 1.0)).mean(axis=-1))
    penalty = np.exp(np.minimum(0.0, 1.0 - expected / np.maximum(predicted, 1)))
    return np.where(possible, penalty * geometric, 0.0)


def chrf(*, prediction: str, reference: str) -> float:
    """Return chrF2, character 6-grams without white space: sacrebleu's ``sentence_chrf`` over 100.

    References:
        Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    return float(_chrf().sentence_score(prediction, [reference]).score) / 100.0


def rouge_l(*, prediction: str, reference: str) -> float:
    """Return ROUGE-L F1: longest common subsequence of ``tokens``, no stemming.

    Equals ``rouge_score``'s ``rougeL`` fmeasure on English words; that package has no words in
    other scripts, and parts "2.5" into two numbers.

    References:
        Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    predicted, expected = tokens(prediction), tokens(reference)
    if not predicted or not expected:
        return 0.0
    return _f1(
        hits=_longest_common_subsequence(predicted, expected), num_predicted=len(predicted), num_expected=len(expected)
    )


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """Split a text into case-folded words and numbers of any script.

    Scripts without spaces (Chinese, Japanese, Thai ...) are split into characters. A number is
    parted from its unit ("2.5mm" is "2.5", "mm") and keeps sign, decimals and fractions; "2.50" is
    "2.5", "1,000" is "1000" and "\u00bd" is "1/2". Units that are marks become words: 5" is "5",
    "in". Hyphens and punctuation separate: "12-pack" is "12", "pack".
    """
    folded = text.lower()
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", _VULGAR_FRACTION.sub(r" \1", text)).casefold()
        folded = folded.replace("\u2044", "/").replace("\u2212", "-")
    if not _UNIT_MARKS.isdisjoint(folded):
        folded = _MARKED_UNIT.sub(_unit, folded)
    found = (_ASCII_WORD if folded.isascii() else _word()).findall(folded)
    return tuple(word if word.isalnum() or word[0].isalpha() else _number(word) for word in found)


def _unit(mark: re.Match[str]) -> str:
    """Return a unit in words; a quotation mark that closes what one has opened stays."""
    opened = re.search(rf"(?<![^\s(]){re.escape(mark[0][0])}[^{re.escape(mark[0][0])}]*$", mark.string[: mark.start()])
    return mark[0] if opened and mark[0][0] in "\"'" else f" {mark.lastgroup} "


def tokens(text: str) -> tuple[str, ...]:
    """Return the words of a text; its characters where it has none, such as "!!!"."""
    return words(text) or tuple("".join(text.split()))


def _number(word: str) -> str:
    if _THOUSANDS.fullmatch(word):
        word = word.replace(",", "")
    word = word.replace(",", ".")
    if word.count(".") == 1 and "/" not in word:
        whole, _, part = word.partition(".")
        part = part.rstrip("0")
        word = (f"{whole}0" if whole in ("", "-") else whole) + (f".{part}" if part else "")
    return word


@cache
def _word() -> Any:
    import regex  # as Transformers and sacrebleu do: Unicode scripts and marks are unknown to re

    return regex.compile(_WORD)


@cache
def _unspaced() -> Any:
    import regex

    return regex.compile(rf"[{_UNSPACED}]\p{{M}}*|[^{_UNSPACED}]+")


def token_f1(*, prediction: str, reference: str) -> float:
    """Return the F1 of the bags of ``tokens``; 0 where a side has none."""
    predicted, expected = tokens(prediction), tokens(reference)
    hits = (Counter(predicted) & Counter(expected)).total()
    return _f1(hits=hits, num_predicted=len(predicted), num_expected=len(expected))


def jaccard(*, prediction: str, reference: str) -> float:
    """Return shared ``tokens`` over all, as sets; 0 where neither text has one."""
    predicted, expected = set(tokens(prediction)), set(tokens(reference))
    union = predicted | expected
    return len(predicted & expected) / len(union) if union else 0.0


@dataclass(frozen=True, slots=True)
class TfidfScorer:
    """TF-IDF cosines under document frequencies that were fitted before; can be pickled."""

    vectorizer: Any
    """A fitted ``TfidfVectorizer``."""

    def __call__(self, *, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        """Score N pairs in [0, 1]; NaN where no word of the reference is known."""
        left, right = self.vectorizer.transform(predictions), self.vectorizer.transform(references)
        # Rows are unit vectors (or zero), so the cosine is the sum of products.
        products, known = left.multiply(right).sum(axis=1).flat, right.getnnz(axis=1)
        return [
            1.0 if tokens(p) == tokens(r) else min(1.0, float(value)) if count else math.nan
            for p, r, value, count in zip(predictions, references, products, known, strict=True)
        ]


def fit_tfidf(fit_on: Sequence[str]) -> TfidfScorer:
    """Fit the cosine of TF-IDF vectors of single ``tokens`` and pairs of neighbours.

    The inverse document frequencies are fitted once, on a whole split; fitted on the two texts of
    each pair, as the official script does, they carry no information. Words that no text of the
    split uses have no dimension, and count neither for nor against a prediction.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # heavy: imported on use

    return TfidfScorer(TfidfVectorizer(analyzer=_terms).fit(fit_on))


def _terms(text: str) -> list[str]:
    single = tokens(text)
    return [*single, *map(" ".join, pairwise(single))]


def _f1(*, hits: int, num_predicted: int, num_expected: int) -> float:
    return 2 * hits / (num_predicted + num_expected) if hits else 0.0


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    # the bit-parallel recurrence of Hyyro 2004, one step per word
    positions: dict[str, int] = {}
    for position, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << position
    everything = (1 << len(first)) - 1
    unmatched = everything
    for word in second:
        hit = unmatched & positions.get(word, 0)
        unmatched = (unmatched + hit | unmatched - hit) & everything
    return len(first) - unmatched.bit_count()


class _NgramCounts(NamedTuple):
    num_tokens: int
    counts: Counter[tuple[str, ...]]


@lru_cache(maxsize=2048)
def _ngram_counts(text: str, *, by_script: bool) -> _NgramCounts:
    """Count all 1- to 4-grams; cached because the completions of a group share their reference."""
    tokens = _tokenizer_13a()(text.rstrip()).split()
    if by_script and not text.isascii():
        tokens = [part for token in tokens for part in _unspaced().findall(token)]
    counts: Counter[tuple[str, ...]] = Counter()
    for n in range(1, BLEU_ORDER + 1):
        counts.update(zip(*(tokens[start:] for start in range(n)), strict=False))
    return _NgramCounts(num_tokens=len(tokens), counts=counts)


@cache
def _tokenizer_13a() -> Any:
    from sacrebleu.tokenizers import tokenizer_13a  # heavy: imported on use

    factory: Any = tokenizer_13a.Tokenizer13a  # it has no annotations
    return factory()


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF  # heavy: imported on use

    return CHRF()
