"""Answers of attributes against the catalogue's, key by key; numbers to check by hand."""

import math

import pytest

from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.metrics.table import METRICS, attribute_exact_metrics, attribute_recall_metrics
from grpo_mmpc.metrics.values import Values, compare_values, is_same
from grpo_mmpc_rewards.attributes import attribute_f1

TRUTH = '{"type": "tote bag", "color": "grey", "pack": "2", "size": "L"}'
# Right to the letter: size. Right: type and colour, normalised. Left out: pack. Not known: brand.
ANSWER = '{"type": "Tote Bags", "color": "gray", "size": "L", "brand": "Acme"}'
WRONG = '{"color": "red"}'


def inputs(*predictions: str | None, references=None) -> MetricInputs:
    return MetricInputs(
        task="facts",
        target="attributes",
        predictions=predictions,
        references=references or [TRUTH] * len(predictions),
    )


def test_the_keys_of_the_catalogue_are_counted_and_no_others():
    assert compare_values(prediction=ANSWER, reference=TRUTH) == Values(known=4, answered=3, right=3, exact=1)
    assert compare_values(prediction=WRONG, reference=TRUTH, key="color") == Values(
        known=1, answered=1, right=0, exact=0
    )
    assert compare_values(prediction=None, reference=TRUTH) == Values(known=4, answered=0, right=0, exact=0)


@pytest.mark.parametrize(
    ("name", "answer", "wrong", "nothing", "malformed"),
    [
        ("attribute_recall", 3 / 4, 0.0, 0.0, 0.0),
        ("attribute_exact", 1 / 4, 0.0, 0.0, 0.0),
        ("attribute_precision", 1.0, 0.0, math.nan, 0.0),
        ("attribute_f1", 6 / 7, 0.0, 0.0, 0.0),
        ("attribute_abstention", 1 / 4, 3 / 4, 1.0, 1.0),
    ],
)
def test_a_measure_of_one_item(name, answer, wrong, nothing, malformed):
    scores = METRICS[name].score(inputs(ANSWER, WRONG, "{}", None))
    assert scores == pytest.approx([answer, wrong, nothing, malformed], nan_ok=True)


def test_an_item_of_which_nothing_is_known_is_unscored():
    for name in ("attribute_recall", "attribute_f1", "attribute_abstention"):
        assert math.isnan(METRICS[name].score(inputs(ANSWER, references=[None]))[0])


def test_each_key_has_a_normalised_and_an_exact_match_of_its_own():
    metrics = attribute_recall_metrics(["color"]) | attribute_exact_metrics(["color"])
    scores = {name: metric.score(inputs(ANSWER, WRONG, None)) for name, metric in metrics.items()}
    assert scores == {"attribute_recall_color": [1.0, 0.0, 0.0], "attribute_exact_color": [0.0, 0.0, 0.0]}


@pytest.mark.parametrize(
    ("first", "second", "kind", "same"),
    [
        ("Pack of 2", "2", "pack", True),
        ("2", "3", "pack", False),
        ("two", "2", "pockets", True),
        ("tote bag", "tote", "type", False),
        ("kitchen", "KITCHEN", "room", True),
        ("!!", "!", "code", False),
    ],
)
def test_values_are_the_same_whatever_their_case_spelling_and_number(first, second, kind, same):
    assert is_same(first, second, kind=kind) is same


def test_the_reward_is_the_metric_of_the_same_name():
    score = attribute_f1()
    values = score(
        predictions=[ANSWER, WRONG, "{}", "Red Mug"],
        references=[TRUTH, TRUTH, None, "Red Mug"],
        targets=["attributes", "attributes", "attributes", "text"],
    )
    assert values == [pytest.approx(6 / 7), 0.0, None, 1.0]
