"""Text metrics against hand computation and against independent packages."""

import math
import random

import numpy as np
import pytest
import sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from grpo_mmpc.metrics import text

ADVERSARIAL = [
    "",
    " ",
    "Bag",
    "Red Cotton Bag",
    "Acme Cotton Tote Bag, Striped Blue, Large, Pack of 2",
    "acme cotton tote bag striped blue large pack of 2",
    "!!! ... ,,, ---",
    "<b>Red &amp; Blue</b> <script>alert(1)</script>",
    "NaN",
    "null",
    "Café Naïve Größe 10½",
    "حقيبة قطنية حمراء كبيرة",
    "红色 棉质 手提 袋",
    "🎒🎒 red bag 🎒",
    "e\u0301\u200b\u00adzero\u202ewidth",
    "line one\nline two-\nthree\ttab",
    "1,000.50 x 2.5-inch (pack/2) $9.99",
    "bag " * 1250,
    "x" * 5000,
]


def random_pairs(count: int, *, seed: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    words = [
        "red",
        "blue",
        "tote",
        "bag",
        "mug,",
        "large",
        "pack",
        "of",
        "2",
        "Cotton",
        "steel's",
        "a-b",
        "10%",
        "(new)",
        "&",
    ]

    def sentence() -> str:
        return " ".join(rng.choices(words, k=rng.randint(0, 16)))

    return [(sentence(), sentence()) for _ in range(count)]


CHINESE = "红色 棉质 手提 袋"
ALL_PAIRS = random_pairs(200, seed=0) + [(p, r) for p in ADVERSARIAL for r in ADVERSARIAL]


class TestBleu:
    def test_a_three_word_title_is_scored_by_its_three_orders(self) -> None:
        # unigrams 2/3, bigrams 1/2 (Cotton Bag), no trigram: NIST smoothing 1/2 of 1 -> (2/3 * 1/2
        # * 1/2) ** (1/3)
        score = text.bleu(prediction="Blue Cotton Bag", reference="Red Cotton Bag")
        assert score == pytest.approx((1 / 6) ** (1 / 3))

    def test_a_perfect_title_scores_one_however_short(self) -> None:
        for title in ("Bag", "Tote Bag", "Red Tote Bag", "Acme Red Tote Bag, Large"):
            assert text.bleu(prediction=title, reference=title) == pytest.approx(1.0)

    def test_the_second_order_without_a_match_counts_a_quarter(self) -> None:
        # unigrams 4/4; bigrams of "d c b a" in "a b c d": none -> 1/2 of 3; trigrams 1/4 of 2;
        # 4-grams 1/8 of 1
        score = text.bleu(prediction="d c b a", reference="a b c d")
        assert score == pytest.approx((1 * (1 / 6) * (1 / 8) * (1 / 8)) ** 0.25)

    def test_a_short_prediction_pays_the_brevity_penalty_and_keeps_the_order_of_the_reference(self) -> None:
        # "a" against "a b c d": precisions 1, 1/2, 1/4, 1/8 (no n-grams count as one without a
        # match), penalty exp(1 - 4/1)
        score = text.bleu(prediction="a", reference="a b c d")
        assert score == pytest.approx(math.exp(-3) * (1 / 64) ** 0.25)

    def test_prediction_and_reference_are_not_interchangeable(self) -> None:
        long, short = "red tote bag with a very long tail of words", "red tote bag"
        assert text.bleu(prediction=short, reference=long) != text.bleu(prediction=long, reference=short)
        with pytest.raises(TypeError):
            text.bleu(short, long)  # type: ignore[misc]

    def test_no_common_word_or_an_empty_side_scores_zero(self) -> None:
        for prediction, reference in [("", "a b"), ("a b", ""), ("", ""), ("x y", "a b")]:
            assert text.bleu(prediction=prediction, reference=reference) == 0.0

    @pytest.mark.parametrize("smoothing", text.SMOOTHINGS)
    def test_equals_nltk_on_every_pair(self, smoothing: str) -> None:
        tokenize = Tokenizer13a()
        method = getattr(SmoothingFunction(), smoothing)
        for prediction, reference in ALL_PAIRS:
            if CHINESE in (prediction, reference):
                continue  # read by characters
            predicted, expected = tokenize(prediction.rstrip()).split(), tokenize(reference.rstrip()).split()
            order = min(4, len(expected)) or 1
            nltk_score = sentence_bleu([expected], predicted, weights=(1 / order,) * order, smoothing_function=method)
            assert text.bleu(prediction=prediction, reference=reference, smoothing=smoothing) == pytest.approx(
                float(nltk_score), abs=1e-12
            )

    def test_equals_sacrebleu_where_both_texts_have_four_tokens(self) -> None:
        compared = 0
        for prediction, reference in ALL_PAIRS:
            if CHINESE in (prediction, reference):
                continue
            statistics = text.bleu_statistics(prediction=prediction, reference=reference)
            if min(statistics.prediction_tokens, statistics.reference_tokens) >= 4:
                compared += 1
                expected = sacrebleu.sentence_bleu(prediction, [reference]).score / 100
                assert text.bleu(prediction=prediction, reference=reference) == pytest.approx(expected, abs=1e-9)
        assert compared > 200

    def test_unknown_smoothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="method3"):
            text.bleu(prediction="a", reference="a", smoothing="method9")


class TestCorpusBleu:
    @staticmethod
    def summed(pairs: list[tuple[str, str]]) -> np.ndarray:
        rows = [text.bleu_statistics(prediction=p, reference=r).flat() for p, r in pairs]
        return np.asarray(rows, dtype=np.float64).sum(axis=0)

    def test_hand_computed_two_item_corpus(self) -> None:
        # item 1: "a b c d" vs "a b c d"; item 2: "a x" vs "a b c d"
        # matches 4+1, 3+0, 2+0, 1+0 of totals 4+2, 3+1, 2+0, 1+0; lengths 6 against 8
        pairs = [("a b c d", "a b c d"), ("a x", "a b c d")]
        expected = math.exp(1 - 8 / 6) * (5 / 6 * 3 / 4 * 2 / 2 * 1 / 1) ** 0.25
        assert text.corpus_bleu(self.summed(pairs)) == pytest.approx(expected)

    @pytest.mark.parametrize(
        "pairs",
        [
            random_pairs(200, seed=1),
            random_pairs(5, seed=2),
            [(p, r) for p in ADVERSARIAL for r in ADVERSARIAL if CHINESE not in (p, r)],
            [("a b c d", "d c b a"), ("e f g h", "h g f e")],  # smoothing of three orders
            [("", "red bag"), ("red bag", "red bag")],
            [("", ""), ("", "x")],
            [("Red Bag Now", "Red Bag Now")],  # no 4-gram anywhere: undefined, 0 by sacrebleu's rule
        ],
    )
    def test_equals_sacrebleu(self, pairs: list[tuple[str, str]]) -> None:
        expected = sacrebleu.corpus_bleu([p for p, _ in pairs], [[r for _, r in pairs]], force=True).score / 100
        assert float(text.corpus_bleu(self.summed(pairs))) == pytest.approx(expected, abs=1e-9)

    def test_resamples_are_computed_at_once(self) -> None:
        batches = [random_pairs(30, seed=seed) for seed in range(6)]
        stacked = np.stack([self.summed(pairs) for pairs in batches]).reshape(2, 3, 10)
        one_by_one = [float(text.corpus_bleu(self.summed(pairs))) for pairs in batches]
        assert text.corpus_bleu(stacked).shape == (2, 3)
        assert text.corpus_bleu(stacked).ravel().tolist() == pytest.approx(one_by_one)


def test_chrf_equals_sacrebleu_on_every_pair() -> None:
    for prediction, reference in ALL_PAIRS[:300]:
        expected = sacrebleu.sentence_chrf(prediction, [reference]).score / 100
        assert text.chrf(prediction=prediction, reference=reference) == pytest.approx(expected, abs=1e-12)


class OwnTokens:
    """Our words for the package, which has no words but English ones."""

    def tokenize(self, title: str) -> list[str]:
        return list(text.tokens(title))


class TestRougeL:
    def test_hand_computed(self) -> None:
        # subsequence "red bag": precision 2/2, recall 2/3 -> F1 4/5
        assert text.rouge_l(prediction="Red bag", reference="red TOTE bag!") == pytest.approx(0.8)

    def test_equals_rouge_score_on_every_pair(self) -> None:
        scorer = RougeScorer(["rougeL"], tokenizer=OwnTokens())
        for prediction, reference in ALL_PAIRS:
            if len(prediction) + len(reference) > 6000:
                continue  # the package's table of a million cells takes a second
            expected = scorer.score(reference, prediction)["rougeL"].fmeasure
            assert text.rouge_l(prediction=prediction, reference=reference) == pytest.approx(expected, abs=1e-12)


class TestWordOverlap:
    def test_token_f1_counts_repeated_words_as_often_as_both_have_them(self) -> None:
        # predicted bag bag red, true bag red red: common bag 1 + red 1 = 2 -> 2*2 / (3+3)
        assert text.token_f1(prediction="bag bag RED", reference="Bag red, red") == pytest.approx(2 / 3)

    def test_jaccard_counts_words_once(self) -> None:
        # {bag, red} and {bag, red, tote}: 2 of 3
        assert text.jaccard(prediction="bag bag red", reference="red tote bag") == pytest.approx(2 / 3)

    def test_words_of_every_script_count(self) -> None:
        for title in ("حقيبة قطنية", "Größe 10½", "红色 手提"):
            assert text.token_f1(prediction=title, reference=title) == 1.0
            assert text.jaccard(prediction=title, reference=title) == 1.0

    def test_texts_without_a_common_word_score_zero(self) -> None:
        for prediction, reference in [("", ""), ("!!!", "..."), ("🎒", "bag"), ("bag", " ")]:
            assert text.token_f1(prediction=prediction, reference=reference) == 0.0
            assert text.jaccard(prediction=prediction, reference=reference) == 0.0


class TestTfidfCosine:
    REFERENCES = ("Acme red tote bag", "Acme blue tote bag", "Acme steel water bottle", "Acme red mug")

    def test_a_rare_word_weighs_more_than_one_that_every_reference_has(self) -> None:
        rare, common = text.fit_tfidf(self.REFERENCES)(
            predictions=["bottle", "Acme"], references=[self.REFERENCES[2]] * 2
        )
        assert rare > common > 0

    def test_equals_scikit_learn_fitted_on_the_split(self) -> None:
        pairs = [(p, r) for p, r in ALL_PAIRS if r.strip()]
        predictions, references = [p for p, _ in pairs], [r for _, r in pairs]

        options = {"tokenizer": text.tokens, "token_pattern": None, "lowercase": False}
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), **options).fit(references)
        left, right = vectorizer.transform(predictions), vectorizer.transform(references)
        expected = [float(cosine_similarity(left[i], right[i])[0, 0]) for i in range(len(pairs))]
        scores = text.fit_tfidf(references)(predictions=predictions, references=references)
        assert scores == pytest.approx(expected, abs=1e-12)

    def test_a_reference_without_a_known_word_cannot_be_judged(self) -> None:
        scores = text.fit_tfidf(["red bag"])(predictions=["red mug", "blue mug"], references=["blue mug"] * 2)
        assert scores == pytest.approx([math.nan, 1.0], nan_ok=True)

    def test_the_split_decides_the_weights_not_the_pair(self) -> None:
        pair = {"predictions": ["Acme mug"], "references": ["Acme red mug"]}
        alone, in_split = text.fit_tfidf(["Acme red mug"])(**pair), text.fit_tfidf(self.REFERENCES)(**pair)
        assert alone != pytest.approx(in_split)


PAIRWISE = [text.bleu, text.chrf, text.rouge_l, text.token_f1, text.jaccard]


@pytest.mark.parametrize("metric", PAIRWISE, ids=lambda metric: metric.__name__)
def test_every_pair_of_strings_has_a_score_between_zero_and_one(metric: object) -> None:
    for prediction, reference in ALL_PAIRS:
        score = metric(prediction=prediction, reference=reference)  # type: ignore[operator]
        assert isinstance(score, float)
        assert 0.0 <= score <= 1.0 + 1e-12


@pytest.mark.parametrize("metric", [*PAIRWISE, "tfidf"], ids=lambda metric: getattr(metric, "__name__", metric))
class TestScripts:
    """What every word metric owes to titles in any script, and to numbers in them."""

    TITLES = (
        "Красная куртка 2",
        "青いケトル 1.7L",
        "红色电热水壶",
        "빨간 주전자",
        "حقيبة قطنية حمراء",
        "लाल केतली",
        "หูฟังสีแดง",
        "κόκκινο σακίδιο",
        "The Who",
        "★★★",
        "🎒",
        "S",
    )

    @staticmethod
    def score(metric: object, *, prediction: str, reference: str) -> float:
        if metric == "tfidf":
            fitted = text.fit_tfidf([*TestScripts.TITLES, prediction, reference])
            return fitted(predictions=[prediction], references=[reference])[0]
        return float(metric(prediction=prediction, reference=reference))  # type: ignore[operator]

    def test_a_title_matches_itself(self, metric: object) -> None:
        for title in self.TITLES:
            assert self.score(metric, prediction=title, reference=title) == pytest.approx(1.0), title

    def test_a_title_that_shares_its_number_alone_is_not_the_same(self, metric: object) -> None:
        assert self.score(metric, prediction="Синий чайник 2", reference="Красная куртка 2") < 0.5

    def test_a_title_without_spaces_is_neither_all_nor_nothing(self, metric: object) -> None:
        # 青い is shared, ケトル (kettle) and コップ (cup) are not.
        assert 0.1 < self.score(metric, prediction="青いコップ", reference="青いケトル") < 0.9
        assert 0.1 < self.score(metric, prediction="หูฟังสีดำ", reference="หูฟังสีแดง") < 1.0

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            *[("2.5mm", "25mm"), ("1/2 inch", "12 inch"), ("1.0 Cup", "10 Cup"), ("Pack of 2", "Pack of 3")],
            *[("-2.00", "+2.00"), ("-20 C", "20 C"), ("\u22122", "2"), ("5\u2033", "5'"), ('5"', "5"), ("10%", "10")],
        ],
    )
    def test_another_number_is_another_title(self, metric: object, one: str, other: str) -> None:
        assert self.score(metric, prediction=f"Steel {one} Pin", reference=f"Steel {other} Pin") < 0.95


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("12-pack", "12 pack"),
        ("2.5mm", "2.5 mm"),
        ("1.0 cup", "1 cup"),
        ("½ lb", "1/2 lb"),
        ("10½ in", "10 1/2 in"),
        ("1,000 ml", "1000 ml"),
        ("2,5 cm", "2.5 cm"),
        (".5 oz", "0.5 oz"),
        ("lens \u2212.50", "lens -0.5"),
        ("lens +2", "lens 2"),
        ("20-30 cm", "20 30 cm"),  # a range, no sign
        ('27"', "27 in"),
        ("5\u2033 x 7''", '5" x 7\u201d'),
        ("6' cable", "6 ft cable"),
        ("80's shirt", "80 s shirt"),  # no feet
        ('"Top 10" mug', "top 10 mug"),  # quotation marks
        ("for 'iPhone 5' black", "for iphone 5 black"),
        ("women's 6' cable", "women's 6 ft cable"),
        ("70 %", "70%"),
        ("\uff21\uff22 \uff11\uff12", "ab 12"),  # full width
    ],
)
def test_spellings_of_one_number_are_the_same_words(one: str, other: str) -> None:
    assert text.words(one) == text.words(other)


def test_words_keep_their_marks_and_codes_their_digits() -> None:
    assert text.words("लाल केतली") == ("लाल", "केतली")
    assert text.words("WH-1000XM4 USB3.0") == ("wh", "1000", "xm4", "usb3.0")
    assert text.words("青いケトル") == tuple("青いケトル")
    assert (text.words("!!!"), text.tokens("! !")) == ((), ("!", "!"))
