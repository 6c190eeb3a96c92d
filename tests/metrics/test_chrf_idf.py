"""Weighted chrF against hand computation, against sacrebleu, and under its own rules."""

import math

import pytest
import sacrebleu

from grpo_mmpc.metrics.chrf_idf import MAX_FITTED_TITLES, CharacterIdf, chrf_idf, fit_character_idf

EQUAL = CharacterIdf(weights={}, rare_weight=1.0)
LONG = [
    "Acme Red Tote Bag, Large",
    "Brio Blue Mug, 12 oz",
    "bag bag bag",
    "Größe 42, schwarz",
    "红色棉质手提袋 大号",
    "🎒 red bag 🎒",
]


def test_weights_are_bm25s_and_what_one_title_has_counts_as_what_none_has() -> None:
    idf = fit_character_idf(["ab", "ac", "ad", "b"])
    # of 4 titles: a in 3, b in 2; everything else in one
    assert idf.weights == pytest.approx({"a": math.log(1 + 1.5 / 3.5), "b": math.log(1 + 2.5 / 2.5)})
    assert idf.rare_weight == pytest.approx(math.log(1 + 3.5 / 1.5))


def test_hand_computed_pair() -> None:
    # a weighs 1, all else 2. "ab" against "ac": letters 1 of 1 + 2 on both sides, pairs 0 of 2; two
    # orders. precision = recall = (1/3 + 0) / 2
    idf = CharacterIdf(weights={"a": 1.0}, rare_weight=2.0)
    assert chrf_idf(prediction="ab", reference="ac", idf=idf) == pytest.approx(1 / 6)
    # "aba" against "ab": letters hit 3 of 4 and 3 of 3; pairs ab, ba: 2 of 4 and 2 of 2; the triple
    # is not judged
    precision, recall = (3 / 4 + 1 / 2) / 2, 1.0
    assert chrf_idf(prediction="aba", reference="ab", idf=idf) == pytest.approx(
        5 * precision * recall / (4 * precision + recall)
    )


def test_an_ngram_counts_as_often_as_both_texts_have_it() -> None:
    # letters: 2 of 3 and 2 of 2; pairs: 1 of 2 and 1 of 1
    precision = (2 / 3 + 1 / 2) / 2
    assert chrf_idf(prediction="aaa", reference="aa", idf=EQUAL) == pytest.approx(5 * precision / (4 * precision + 1))


@pytest.mark.parametrize("prediction", LONG)
@pytest.mark.parametrize("reference", LONG)
def test_with_equal_weights_it_is_sacrebleus_chrf(prediction: str, reference: str) -> None:
    expected = sacrebleu.sentence_chrf(prediction, [reference]).score / 100
    assert chrf_idf(prediction=prediction, reference=reference, idf=EQUAL) == pytest.approx(expected)


def test_one_rare_letter_of_the_title_does_not_stand_for_all_of_it() -> None:
    titles = ["Acme Quilt", "Acme Lamp", "Acme Drum", "Acme Mug"]
    idf = fit_character_idf(titles)
    # sacrebleu judges "Q" by the order of single letters alone
    assert chrf_idf(prediction="Q", reference="Acme Quilt", idf=idf) < 0.1


def test_what_all_titles_share_pays_less_the_more_titles_there_are() -> None:
    kinds = ["Lamp", "Mug", "Tote", "Vest", "Drum", "Jug", "Pan", "Cap"]
    scores = []
    for count in (2, 4, 8):
        idf = fit_character_idf([f"{kind}, Pack of 2" for kind in kinds[:count]])
        scores.append(chrf_idf(prediction=", Pack of 2", reference="Lamp, Pack of 2", idf=idf))
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < scores[0] / 2


def test_a_title_matches_itself_even_if_all_titles_are_the_same() -> None:
    for titles in (["Bag"], ["Bag"] * 1000):
        assert chrf_idf(prediction="Bag", reference="Bag", idf=fit_character_idf(titles)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("prediction", "reference"), [("", "bag"), ("bag", ""), ("", ""), ("  ", "bag"), ("xyz", "bag")]
)
def test_nothing_in_common_scores_zero(prediction: str, reference: str) -> None:
    assert chrf_idf(prediction=prediction, reference=reference, idf=EQUAL) == 0.0


def test_a_corpus_without_titles_is_refused() -> None:
    with pytest.raises(ValueError, match="no title"):
        fit_character_idf([])


def test_of_a_large_corpus_an_even_share_is_read_the_same_each_time() -> None:
    titles = ["even", "odd"] * MAX_FITTED_TITLES
    idf = fit_character_idf(titles)
    # every second title is read: all of them "even"
    assert idf.weights["even"] == pytest.approx(math.log(1 + 0.5 / (MAX_FITTED_TITLES + 0.5)))
    assert "odd" not in idf.weights
    assert fit_character_idf(titles) == idf
