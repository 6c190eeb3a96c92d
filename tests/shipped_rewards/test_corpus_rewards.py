"""Rewards that are fitted on the training titles."""

import pytest

from grpo_mmpc.errors import RewardError
from grpo_mmpc.metrics import text
from grpo_mmpc.metrics.chrf_idf import chrf_idf as metric
from grpo_mmpc.metrics.chrf_idf import fit_character_idf
from grpo_mmpc_rewards.corpus import chrf_idf, tfidf_cosine
from grpo_mmpc_rewards.text import chrf, token_f1

KINDS = ["Lamp", "Mug", "Tote Bag", "Jigsaw", "Drum", "Vest", "Chess Set", "Oven Glove"]
TITLES = [f"Acme {kind}, Best Value, Pack of 2" for kind in KINDS]


@pytest.mark.parametrize("factory", [chrf_idf, tfidf_cosine])
def test_an_unfitted_reward_says_so_rather_than_score_without_weights(factory: type) -> None:
    with pytest.raises(RewardError, match=f"{factory.__name__} was not fitted"):
        factory()(predictions=["a"], references=["a"])


@pytest.mark.parametrize("factory", [chrf_idf, tfidf_cosine])
def test_a_corpus_without_text_is_refused(factory: type) -> None:
    for titles in ([], ["", "  "]):
        with pytest.raises(RewardError, match=f"none of {len(titles)} training items"):
            factory().fit(titles)


@pytest.mark.parametrize("factory", [chrf_idf, tfidf_cosine])
def test_two_rewards_of_a_mix_are_fitted_apart_and_can_be_fitted_again(factory: type) -> None:
    first, second = factory(), factory()
    first.fit(TITLES)
    with pytest.raises(RewardError, match="not fitted"):
        second(predictions=["a"], references=["a"])
    batch = {"predictions": ["Acme Lamp, Pack of 2"], "references": [TITLES[0]]}
    second.fit(["Lamp", *TITLES[1:]])
    assert first(**batch) != second(**batch)
    second.fit(TITLES)
    assert first(**batch) == second(**batch)


@pytest.mark.parametrize(("factory", "plain"), [(chrf_idf, chrf), (tfidf_cosine, token_f1)])
def test_the_stock_phrase_of_all_titles_pays_little_and_the_product_most(factory: type, plain: type) -> None:
    reward = factory()
    reward.fit(TITLES)
    batch = {"predictions": ["Acme Drum, Best Value, Pack of 2", "Tote Bag"], "references": [TITLES[2]] * 2}
    stock, product = reward(**batch)
    assert product > 2 * stock
    stock, product = plain()(**batch)
    assert stock > product


def test_they_are_the_metrics_under_the_weights_of_the_titles() -> None:
    words, characters = tfidf_cosine(), chrf_idf()
    words.fit(TITLES)
    characters.fit(TITLES)
    predictions, references = ["Acme Drum", "Jigsaw, Best Value", "zzz"], TITLES[3:6]
    batch = {"predictions": predictions, "references": references}
    assert words(**batch) == pytest.approx(text.fit_tfidf(TITLES)(**batch))
    idf = fit_character_idf(TITLES)
    pairs = zip(predictions, references, strict=True)
    assert characters(**batch) == [metric(prediction=p, reference=r, idf=idf) for p, r in pairs]


def test_blank_titles_of_the_corpus_do_not_count() -> None:
    with_blanks, without = chrf_idf(), chrf_idf()
    with_blanks.fit(["", *TITLES, "  "])
    without.fit(TITLES)
    batch = {"predictions": ["Acme Drum"], "references": [TITLES[1]]}
    assert with_blanks(**batch) == without(**batch)
