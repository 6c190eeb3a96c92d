"""Paper mode: every number equals a transcription of the published formulas, quirks included."""

import logging
import math
import random
import re

import pytest
from sacrebleu.metrics.bleu import BLEU
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.metrics.official import text as paper
from grpo_mmpc.metrics.official.text import PAPER_METRICS, ascii_words, swapped_bleu, tfidf_similarity
from grpo_mmpc.metrics.table import METRICS
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import resolve_model

LEXICAL = [name for name in PAPER_METRICS if name != "bertscore_f1"]
TITLES = [
    "Acme Red Cotton Tote Bag, Large, Pack of 2",
    "acme red cotton tote bag large pack of 2",
    "Blue Steel Water-Bottle 24oz",
    "Steel bottle, blue; for the home",
    "Bag",
    "the of and",
    "a b c",
    "!!! ... ---",
    "",
    " ",
    "NaN",
    "null",
    "Café Größe 10½",
    "حقيبة قطنية حمراء",
    "🎒🎒 red bag 🎒",
    "<b>Red &amp; Blue</b> Bag",
    "line one\nline two\tthree",
    "tote " * 1000,
    "x" * 5000,
]


def transcription(*, prediction: str, reference: str) -> dict[str, float]:
    """Compute the five lexical numbers of one pair like the official script, one call each."""

    def cleaned(text: str) -> str:
        return re.sub(r"\s+", " ", re.sub(r"[^a-z0-9\s]", " ", text.lower())).strip()

    truth, said = cleaned(reference), cleaned(prediction)
    if not truth or not said:
        return dict.fromkeys(LEXICAL, 0.0)
    cosine = euclidean = 0.0
    try:
        vectorizer = TfidfVectorizer(stop_words="english", ngram_range=(1, 2), max_features=1000)
        vectors = vectorizer.fit_transform([truth, said])
        cosine = float(cosine_similarity(vectors[0:1], vectors[1:2])[0][0])
        euclidean = 1.0 / (1.0 + float(euclidean_distances(vectors[0:1], vectors[1:2])[0][0]))
    except ValueError as error:
        assert "empty vocabulary" in str(error)
    truth_words, said_words = set(truth.split()), set(said.split())
    overlap = len(truth_words & said_words) / len(truth_words | said_words)
    unsmoothed = BLEU(smooth_method="none", effective_order=False, tokenize="13a")
    # the generated title is the reference of the true one
    bleu = unsmoothed.sentence_score(reference, [prediction]).score / 100
    return {
        "tfidf_cosine": cosine,
        "tfidf_euclidean": euclidean,
        "jaccard": overlap,
        "word_overlap": overlap,
        "bleu": bleu,
    }


def score(name: str, *, prediction: str | None, reference: str | None) -> float:
    inputs = MetricInputs(task="image_to_text", predictions=[prediction], references=[reference])
    return PAPER_METRICS[name].score(inputs)[0]


def random_titles(count: int) -> list[str]:
    rng = random.Random(5)
    words = ["red", "the", "of", "tote-bag", "bag,", "mug", "pack", "2", "Acme", "10%", "(new)", "&", "steel's", "a"]
    return [" ".join(rng.choices(words, k=rng.randint(1, 14))) for _ in range(count)]


def test_the_table_is_that_of_the_paper() -> None:
    assert list(PAPER_METRICS) == [
        "tfidf_cosine",
        "tfidf_euclidean",
        "jaccard",
        "word_overlap",
        "bertscore_f1",
        "bleu",
    ]
    assert all(metric.name == name and metric.targets == ("text",) for name, metric in PAPER_METRICS.items())


def test_every_lexical_number_equals_the_transcription() -> None:
    titles = random_titles(120)
    pairs = [(p, r) for p in TITLES for r in TITLES] + list(zip(titles[:60], titles[60:], strict=True))
    inputs = MetricInputs(task="image_to_text", predictions=[p for p, _ in pairs], references=[r for _, r in pairs])
    expected = [transcription(prediction=p, reference=r) for p, r in pairs]
    for name in LEXICAL:
        assert PAPER_METRICS[name].score(inputs) == pytest.approx([row[name] for row in expected], abs=1e-6), name


def test_only_the_1000_most_frequent_terms_of_a_pair_count() -> None:
    rng = random.Random(3)
    words = [f"word{i}" for i in range(900)]
    prediction, reference = (" ".join(rng.choices(words, k=900)) for _ in range(2))
    found = tfidf_similarity(prediction=prediction, reference=reference)
    expected = transcription(prediction=prediction, reference=reference)
    assert found.cosine == pytest.approx(expected["tfidf_cosine"], abs=1e-9)
    assert found.euclidean == pytest.approx(expected["tfidf_euclidean"], abs=1e-9)


def test_bertscore_equals_the_package_pair_by_pair_without_rescaling() -> None:
    ensure_importable()
    from bert_score import BERTScorer

    from grpo_mmpc.encoders import bertscore_encoder

    titles = [title for title in TITLES if ascii_words(title) and len(title) < 100]
    predictions, references = [*titles, titles[0]], [*titles[3:], *titles[:3], titles[0]]
    official = BERTScorer(model_type=resolve_model("nano:minilm"), num_layers=6, idf=False)
    expected = [float(official.score([r], [p])[2][0]) for p, r in zip(predictions, references, strict=True)]
    inputs = MetricInputs(
        task="image_to_text",
        predictions=predictions,
        references=references,
        bertscore=bertscore_encoder(model="nano:minilm"),
    )
    assert PAPER_METRICS["bertscore_f1"].score(inputs) == pytest.approx(expected, abs=1e-4)
    assert PAPER_METRICS["bertscore_f1"].score(inputs)[-1] == pytest.approx(1.0, abs=1e-4)


class TestQuirks:
    def test_cleaning_parts_words_at_every_other_character(self) -> None:
        assert ascii_words("Café Water-Bottle 1.5L\n(NEW)") == ["caf", "water", "bottle", "1", "5l", "new"]

    def test_idf_of_a_pair_knows_two_values_so_a_rare_word_weighs_as_much_as_a_common_one(self) -> None:
        # terms "red" | "acme": both in one text of two, idf ln(3/2) + 1 = 1.405; "mug" in both: 1;
        # bigrams count once each. squared norms 1 + 1.405**2 * 2 each, shared product 1
        idf = math.log(1.5) + 1
        for word in ("acme", "xylophonist"):
            found = tfidf_similarity(prediction=f"{word} mug", reference="red mug").cosine
            assert found == pytest.approx(1 / (1 + 2 * idf**2))

    def test_euclidean_similarity_is_the_cosine_again(self) -> None:
        for prediction, reference in [("red mug", "red mug"), ("acme mug", "red mug"), ("bag", "mug")]:
            found = tfidf_similarity(prediction=prediction, reference=reference)
            assert found.euclidean == pytest.approx(1 / (1 + math.sqrt(2 - 2 * found.cosine)))

    def test_euclidean_similarity_of_a_title_without_any_term_is_a_half(self) -> None:
        # "the of" loses its stop words: the zero vector lies 1 away from a unit vector
        assert tfidf_similarity(prediction="the of", reference="red mug") == (0.0, 0.5)
        assert tfidf_similarity(prediction="the", reference="of") == (0.0, 0.0)

    def test_word_overlap_is_jaccard(self) -> None:
        for prediction, reference in [("red red mug", "blue mug"), ("mug", "mug"), ("a", "b")]:
            values = [score(name, prediction=prediction, reference=reference) for name in ("jaccard", "word_overlap")]
            assert values[0] == values[1]

    def test_bleu_takes_the_prediction_for_the_reference(self) -> None:
        short, long = "red cotton tote bag", "acme red cotton tote bag with a zip, large"
        # a short prediction inside a long true title: 10 tokens of the title against 4 of the
        # prediction; matches 4/10 3/9 2/8 1/7, and no brevity penalty since the "candidate" is the
        # longer text
        swapped = (4 / 10 * 3 / 9 * 2 / 8 * 1 / 7) ** 0.25
        assert swapped_bleu(prediction=short, reference=long) == pytest.approx(swapped)
        right_way = math.exp(1 - 10 / 4)  # all precisions 1, brevity penalty only
        assert swapped_bleu(prediction=long, reference=short) == pytest.approx(right_way)

    def test_bleu_is_zero_without_a_common_4_gram(self) -> None:
        assert swapped_bleu(prediction="red tote bag", reference="red tote bag") == 0.0
        assert METRICS["bleu"].score(
            MetricInputs(task="image_to_text", predictions=["red tote bag"], references=["red tote bag"])
        ) == [pytest.approx(1.0)]

    @pytest.mark.parametrize("name", PAPER_METRICS)
    @pytest.mark.parametrize("empty", ["", " ", "!!!", "红色", "🎒"])
    def test_a_text_that_is_empty_after_cleaning_scores_zero_everywhere(self, name: str, empty: str) -> None:
        class Untouched:
            has_baseline = False

            def score(self, **_: object) -> None:
                raise AssertionError("an empty text must not reach the encoder")

        for prediction, reference in [(empty, "Red Mug"), ("Red Mug", empty), (empty, empty)]:
            inputs = MetricInputs(
                task="image_to_text",
                predictions=[prediction],
                references=[reference],
                bertscore=Untouched(),  # type: ignore[arg-type]
            )
            assert PAPER_METRICS[name].score(inputs) == [0.0]

    def test_a_malformed_completion_is_scored_as_the_text_error(self) -> None:
        title = "Error Mug"  # the true title shares a word with it
        for name in LEXICAL:
            malformed = score(name, prediction=None, reference=title)
            assert malformed == score(name, prediction="error", reference=title)
        assert score("jaccard", prediction=None, reference=title) == pytest.approx(1 / 2)

    def test_a_missing_title_leaves_its_whole_category_unscored(self, caplog: pytest.LogCaptureFixture) -> None:
        paper._log_once.cache_clear()
        inputs = MetricInputs(
            task="image_to_text",
            predictions=["mug", "bag", "hat"],
            references=["mug", None, "hat"],
            categories=["Home", "Bags", "Bags"],
        )
        with caplog.at_level(logging.WARNING):
            for name in LEXICAL:
                scores = PAPER_METRICS[name].score(inputs)
                assert not math.isnan(scores[0])
                assert all(map(math.isnan, scores[1:]))
        assert [record.getMessage() for record in caplog.records] == [
            "paper mode leaves category Bags unscored: 1 item without a title, and the official script gives up there"
        ]

    def test_without_categories_a_missing_title_leaves_everything_unscored(self) -> None:
        inputs = MetricInputs(task="image_to_text", predictions=["mug", "bag"], references=["mug", None])
        assert all(math.isnan(value) for name in LEXICAL for value in PAPER_METRICS[name].score(inputs))


def test_without_an_encoder_bertscore_is_unscored() -> None:
    assert math.isnan(score("bertscore_f1", prediction="mug", reference="mug"))
