"""Several references of an item: any of them counts, by each metric's own rule."""

import math
from typing import Any

import numpy as np
import pytest
import sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from grpo_mmpc.metrics import text
from grpo_mmpc.metrics.metric import MetricInputs, best_of
from grpo_mmpc.metrics.table import METRICS
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc_rewards.attributes import attribute_f1
from grpo_mmpc_rewards.text import bleu, chrf, jaccard, rouge_l, token_f1

ensure_importable()

LONG, SHORT = "Acme Red Tote Bag with two long handles", "Red Shopper"
PREDICTIONS = [
    "Red Shopper with two handles",
    "Acme Blue Tote Bag with two long handles",
    "Acme Red Shopper with long handles",
    "Red Tote with two handles and a red strap",
]
SETS = [[LONG, SHORT], [SHORT, LONG], [LONG, SHORT, "Acme Shopper, Red, with long handles"], [LONG]]


def inputs(predictions: list[str | None], references: list[list[str]], **more: Any) -> MetricInputs:
    return MetricInputs(
        task="image_to_text",
        predictions=predictions,
        references=[first for first, *_ in references],
        more_references=[others for _, *others in references],
        **more,
    )


def test_bleu_counts_ngrams_of_any_reference_against_the_length_of_the_closest():
    # "red bag two" against "red bag" and "bag two sizes big": unigrams 3/3 and bigrams 2/2, "red
    # bag" of one and "bag two" of the other; lengths 2 and 4 are as close, and the shorter counts,
    # so that there are two orders and no penalty.
    assert text.bleu(prediction="red bag two", reference=["red bag", "bag two sizes big"]) == pytest.approx(1.0)
    # alone, against the first: unigrams 2/3, bigrams 1/2
    assert text.bleu(prediction="red bag two", reference="red bag") == pytest.approx((2 / 3 * 1 / 2) ** 0.5)
    # "red red bag" may have both its reds only where one reference has both
    twice = text.bleu_statistics(prediction="red red bag", reference=["red tote", "bag red"])
    assert twice.matches[:2] == (2, 0)
    assert text.bleu_statistics(prediction="red red bag", reference=["red red", "bag"]).matches[:2] == (3, 1)


@pytest.mark.parametrize("references", SETS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_bleu_of_a_sentence_is_sacrebleus_and_nltks(prediction: str, references: list[str]) -> None:
    tokens = prediction.split()
    lengths = sorted((abs(len(one.replace(",", " ,").split()) - len(tokens)), len(one.split())) for one in references)
    order = min(4, lengths[0][1])
    value = text.bleu(prediction=prediction, reference=references)
    nltk = sentence_bleu(
        [one.replace(",", " ,").split() for one in references],
        tokens,
        weights=[1 / order] * order,
        smoothing_function=SmoothingFunction().method3,
    )
    assert value == pytest.approx(nltk, abs=1e-12)
    if order == 4:
        assert value == pytest.approx(sacrebleu.sentence_bleu(prediction, references).score / 100, abs=1e-9)


def test_bleu_of_a_corpus_is_sacrebleus_with_as_many_references_as_each_item_has():
    streams = [[one[i] if i < len(one) else None for one in SETS] for i in range(3)]
    expected = sacrebleu.corpus_bleu(PREDICTIONS, streams).score / 100
    statistics = METRICS["corpus_bleu"].statistics(inputs(list(PREDICTIONS), SETS))
    assert float(text.corpus_bleu(np.sum(statistics, axis=0))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["chrf", "rouge_l", "token_f1", "jaccard"])
def test_other_words_score_by_the_best_reference(name: str) -> None:
    score = getattr(text, name)
    values = METRICS[name].score(inputs(list(PREDICTIONS), SETS))
    best = [max(score(prediction=p, reference=r) for r in rs) for p, rs in zip(PREDICTIONS, SETS, strict=True)]
    assert values == best
    if name == "chrf":
        assert values == [sacrebleu.sentence_chrf(p, r).score / 100 for p, r in zip(PREDICTIONS, SETS, strict=True)]


@pytest.mark.parametrize("name", [name for name, one in METRICS.items() if one.targets[0] == "text"])
def test_one_reference_scores_as_it_did_and_no_second_one_can_harm(name: str) -> None:
    alone = MetricInputs(task="image_to_text", predictions=[*PREDICTIONS, None], references=[LONG] * 5)
    as_lists = inputs([*PREDICTIONS, None], [[LONG]] * 5)
    assert np.array_equal(METRICS[name].score(alone), METRICS[name].score(as_lists), equal_nan=True)
    if name not in ("bleu", "corpus_bleu", "tfidf_cosine"):  # of several texts together, or fitted on all of them
        both = METRICS[name].score(inputs([*PREDICTIONS, None], [[LONG, SHORT]] * 5))
        assert all(two >= one or math.isnan(one) for one, two in zip(METRICS[name].score(alone), both, strict=True))


class Sentence:
    """An encoder that tells texts apart by their length and reads no Greek."""

    def cosine(self, *, predictions: list[str], references: list[str]) -> list[float]:
        return [1 - abs(len(p) - len(r)) / 100 for p, r in zip(predictions, references, strict=True)]

    def reads(self, texts: list[str]) -> list[bool]:
        return [text.isascii() for text in texts]


def test_a_reference_that_cannot_be_judged_leaves_the_others():
    made = inputs(["abcd", "abcd"], [["ab", "αβγδ"], ["αβγδ"]], sentence=Sentence())
    first, second = METRICS["embedding_cosine"].score(made)
    assert first == 0.98 and math.isnan(second)
    assert best_of([None, 0.25, math.nan]) == 0.25 and math.isnan(best_of([]))


def test_an_unknown_reference_is_unknown_whatever_else_is_given():
    made = MetricInputs(
        task="image_to_text", predictions=["Bag"], references=[None], more_references=[["Bag"]], categories=["c"]
    )
    assert math.isnan(METRICS["bleu"].score(made)[0])


def test_facts_are_those_of_the_title_that_agrees_best():
    made = inputs(["Red Mug, 12 oz"], [["Blue Mug, 12 oz", "Red Mug, 12 oz"]])
    assert METRICS["title_attribute_f1"].score(made) == [1.0]
    batch = {"predictions": ["Red Mug, 12 oz"] * 2, "references": ["Blue Mug, 12 oz"] * 2}
    assert attribute_f1()(**batch, more_references=[["Red Mug, 12 oz"], []]) == [1.0, 0.5]


@pytest.mark.parametrize("factory", [bleu, chrf, rouge_l, token_f1, jaccard])
def test_a_reward_is_the_metric_of_the_same_references(factory) -> None:
    batch = {
        "predictions": list(PREDICTIONS),
        "references": [first for first, *_ in SETS],
        "more_references": [others for _, *others in SETS],
    }
    values = METRICS[factory.__name__].score(inputs(list(PREDICTIONS), SETS))
    assert factory()(**batch) == pytest.approx([min(1.0, value) for value in values])
    # a set-aside row has no list at all
    assert factory()(predictions=["Bag"], references=[None], more_references=[None]) == [None]
