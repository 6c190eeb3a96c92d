"""Every text metric on texts that no catalogue should hold, against independent implementations."""

import math
from collections import Counter

import pytest
import sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sklearn.feature_extraction.text import TfidfVectorizer

from grpo_mmpc.encoders import bertscore_encoder, sentence_encoder
from grpo_mmpc.metrics import semantic
from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.metrics.table import METRICS
from grpo_mmpc.metrics.text import tokens
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import resolve_model

SHORT = [
    "Bag",
    "Acme Red Cotton Tote Bag, Large, Pack of 2",
    "!!! ... ---",
    "NaN",
    "null",
    "Café Größe 10½ ﬁne",
    "حقيبة قطنية حمراء كبيرة",
    "红色 棉质 手提袋",
    "🎒🎒 red bag 🎒🏽",
    "e\u0301\u200bzero\u202ewidth",
    "<b>Red &amp; Blue</b> <script>x()</script>",
]
LONG = ["Red tote bag with pockets, " * 185 + "end", "x" * 5000]
EMPTY = ["", " \t"]
TEXTS = SHORT + LONG + EMPTY
PAIRS = [(p, r) for p in TEXTS for r in TEXTS if r.strip()]  # a blank reference is unknown, not a text
SPACED = [(p, r) for p, r in PAIRS if "红色" not in p + r]  # the others are read by characters
NAMES = [name for name, metric in METRICS.items() if "text" in metric.targets]


def inputs(pairs: list[tuple[str, str]], **scorers: object) -> MetricInputs:
    return MetricInputs(
        task="image_to_text",
        predictions=[p for p, _ in pairs],
        references=[r for _, r in pairs],
        **scorers,  # type: ignore[arg-type]
    )


def test_bleu_equals_nltk() -> None:
    tokenize = Tokenizer13a()
    expected = []
    for prediction, reference in SPACED:
        said, true = tokenize(prediction.rstrip()).split(), tokenize(reference.rstrip()).split()
        order = min(4, len(true)) or 1
        smooth = SmoothingFunction().method3
        expected.append(float(sentence_bleu([true], said, weights=(1 / order,) * order, smoothing_function=smooth)))
    assert METRICS["bleu"].score(inputs(SPACED)) == pytest.approx(expected, abs=1e-9)


def test_corpus_bleu_equals_sacrebleu() -> None:
    metric = METRICS["corpus_bleu"]
    assert metric.statistics is not None
    assert metric.aggregate is not None
    expected = sacrebleu.corpus_bleu([p for p, _ in SPACED], [[r for _, r in SPACED]], force=True).score / 100
    assert float(metric.aggregate(metric.statistics(inputs(SPACED)).sum(axis=0))) == pytest.approx(expected, abs=1e-9)


def test_chrf_equals_sacrebleu() -> None:
    expected = [sacrebleu.sentence_chrf(p, [r]).score / 100 for p, r in PAIRS]
    assert METRICS["chrf"].score(inputs(PAIRS)) == pytest.approx(expected, abs=1e-12)


def test_rouge_l_equals_rouge_score_on_english_words() -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = [(p, r) for p, r in PAIRS if (p + r).isascii() and r in SHORT and "!!!" not in p + r]
    expected = [scorer.score(r, p)["rougeL"].fmeasure for p, r in pairs]
    assert METRICS["rouge_l"].score(inputs(pairs)) == pytest.approx(expected, abs=1e-12)


def test_word_metrics_equal_counting_words_one_by_one() -> None:
    f1, jaccard = [], []
    for prediction, reference in PAIRS:
        said, true = Counter(tokens(prediction)), Counter(tokens(reference))
        total = said.total() + true.total()
        f1.append(2 * (said & true).total() / total if said and true else 0.0)
        jaccard.append(len(said.keys() & true.keys()) / len(said.keys() | true.keys()) if said or true else 0.0)
    assert METRICS["token_f1"].score(inputs(PAIRS)) == pytest.approx(f1, abs=1e-12)
    assert METRICS["jaccard"].score(inputs(PAIRS)) == pytest.approx(jaccard, abs=1e-12)


def test_tfidf_cosine_equals_scikit_learn_fitted_on_the_references() -> None:
    options = {"tokenizer": tokens, "token_pattern": None, "lowercase": False}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), **options).fit([r for _, r in PAIRS])
    said = vectorizer.transform([p for p, _ in PAIRS])
    true = vectorizer.transform([r for _, r in PAIRS])
    expected = [float((said[i] @ true[i].T).sum()) for i in range(len(PAIRS))]
    assert METRICS["tfidf_cosine"].score(inputs(PAIRS)) == pytest.approx(expected, abs=1e-9)


def test_bertscore_equals_the_package_pair_by_pair() -> None:
    ensure_importable()
    from bert_score import BERTScorer

    pairs = [(p, SHORT[(i + 3) % len(SHORT)]) for i, p in enumerate(SHORT)] + [(LONG[0], SHORT[1]), (SHORT[1], LONG[1])]
    package = BERTScorer(model_type=resolve_model("nano:minilm"), num_layers=6, idf=False)
    package._tokenizer.model_max_length = 512  # the model's limit, which this tokenizer does not state
    expected = [min(1.0, max(0.0, float(package.score([p], [r])[2][0]))) for p, r in pairs]
    encoder = bertscore_encoder(model="nano:minilm")
    found = semantic.bertscore_f1(predictions=[p for p, _ in pairs], references=[r for _, r in pairs], encoder=encoder)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def all_scores() -> dict[str, list[float]]:
    pairs = [(p, r) for p in TEXTS for r in (*SHORT, LONG[0])]
    encoders = {
        "bertscore": bertscore_encoder(model="nano:minilm"),
        "sentence": sentence_encoder(model="nano:minilm"),
    }
    scored = inputs(pairs, **encoders)
    return {name: METRICS[name].score(scored) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_score_lies_in_the_range_of_its_metric(name: str, all_scores: dict[str, list[float]]) -> None:
    metric = METRICS[name]
    low, high = sorted((metric.worst, metric.best))
    judged = [score for score in all_scores[name] if not math.isnan(score)]
    assert all(low - 1e-6 <= score <= high + 1e-6 for score in judged)
    # These know no fact of some of the titles, or not the script of one.
    if not name.startswith(("attribute_recall", "title_attribute", "bertscore", "embedding")):
        assert len(judged) == len(all_scores[name])


@pytest.mark.parametrize("name", ["bleu", "chrf", "token_f1", "jaccard", "rouge_l", "bertscore_f1", "embedding_cosine"])
def test_a_title_among_them_that_has_words_matches_itself(name: str) -> None:
    title = SHORT[1]
    encoders = {
        "bertscore": bertscore_encoder(model="nano:minilm"),
        "sentence": sentence_encoder(model="nano:minilm"),
    }
    assert METRICS[name].score(inputs([(title, title)], **encoders)) == pytest.approx([1.0], abs=1e-4)


@pytest.mark.parametrize("name", ["bertscore_f1", "embedding_cosine"])
def test_a_script_that_the_encoder_does_not_know_is_unscored_as_a_reference_only(name: str) -> None:
    # Every Thai title is one unknown token to this model, so that any two would be the same.
    encoders = {"bertscore": bertscore_encoder(model="nano:minilm"), "sentence": sentence_encoder(model="nano:minilm")}
    pairs = [("สีแดง", "กาต้มน้ำ"), ("สีแดง", "Red Bag"), ("Red Bag", "Red Bag")]
    thai, wrong, right = METRICS[name].score(inputs(pairs, **encoders))
    assert math.isnan(thai)
    assert wrong < 0.9 < right
