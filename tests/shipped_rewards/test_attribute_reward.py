"""attribute_f1: the metric's F1, with the brand where the catalogue knows it."""

import pytest

from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.metrics.table import METRICS
from grpo_mmpc_rewards.attributes import attribute_f1

TRUE = "Acme Red Mug, 12 Ounces, Pack of 2"


def test_facts_are_compared_not_words() -> None:
    scores = attribute_f1()(
        predictions=["Crimson? No: red mug 12oz 2-pack", "Red Mug", "Blue Mug, 12 oz", "Mug", "A mug"],
        references=[TRUE, TRUE, TRUE, TRUE, "Mug"],
        attributes=[{}] * 5,
    )
    # true facts: red, 12 oz, 2 pieces
    # crimson, red, 12 oz, 2: 3 hits of 4 and 3; red: 1 of 1 and 3; blue, 12 oz: 1 of 2 and 3; none
    # of 3; neither states any
    assert scores == [pytest.approx(6 / 7), pytest.approx(2 / 4), pytest.approx(2 / 5), 0.0, None]


def test_the_brand_counts_where_it_is_known() -> None:
    batch = {"predictions": ["Acme Red Mug"] * 4, "references": [TRUE] * 4}
    scores = attribute_f1()(**batch, attributes=[{"brand": "ACME"}, {"brand": None}, {}, None])
    # acme, red of acme, red, 12 oz, 2; red of red, 12 oz, 2
    assert scores == [pytest.approx(4 / 6)] + [pytest.approx(2 / 4)] * 3
    assert attribute_f1()(**batch) == [pytest.approx(2 / 4)] * 4  # a catalogue without the column


def test_a_fact_that_the_true_title_does_not_state_costs() -> None:
    assert attribute_f1()(predictions=["Red Mug"], references=["Mug"]) == [0.0]


def test_it_is_the_metric() -> None:
    predictions, references = ["Acme red mug", "Blue Mug, 12oz", "Mug"], [TRUE, TRUE, "Cup"]
    facts = [{"brand": "acme"}, {}, {}]
    metric = METRICS["title_attribute_f1"].score(
        MetricInputs(task="image_to_text", predictions=predictions, references=references, attributes=facts)
    )
    scores = attribute_f1()(predictions=predictions, references=references, attributes=facts)
    assert scores[:2] == metric[:2]
    assert scores[2] is None and metric[2] != metric[2]
