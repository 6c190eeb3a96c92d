"""The gate: the agreement of samples is confidence, and what speaks against a title a reason."""

import pytest

from grpo_mmpc.completion.gate import agreement, confidences, judge, signals_of
from grpo_mmpc.config.sections import GateSection
from grpo_mmpc.metrics.fields import Fields, contradicted

KNOWN = [
    {"type": "kettle", "color": "red", "brand": "nordvik"},
    {"type": "board game", "color": "sky blue", "brand": "zibbo", "pack": "3"},
    {"type": "game", "color": "blue", "material": "tote bag cotton"},
]
FIELDS = Fields(KNOWN)


def test_a_title_states_the_longest_value_that_the_catalogue_knows_and_facts_by_rule():
    assert FIELDS.stated("Zibbo Board Games, Sky-Blue, Pack of 3, 12oz") == {
        "brand": {"zibbo"},
        "type": {"board game"},
        "color": {"sky blue"},
        "count": {"3"},
        "size": {"12 oz"},
    }


def test_a_value_that_the_catalogue_does_not_know_is_read_by_rule():
    assert FIELDS.stated("Orange Kettle") == {"color": {"orange"}, "type": {"kettle"}}


def test_attributes_with_a_value_of_their_own_for_each_item_are_no_field():
    fields = Fields({"sku": f"code {i}", "type": ("kettle", "mug")[i % 2]} for i in range(40))
    assert fields.stated("Kettle code 7") == {"type": {"kettle"}}


def test_the_share_of_samples_that_state_the_same_value_is_the_agreement_on_a_field():
    samples = ["red kettle", "Red Nordvik kettle", "blue kettle", None]
    # type: 3 of 4; color: 2 of 4; brand: 1 of 4. The greedy title does not state a size: it abstains.
    assert agreement("Nordvik Red Kettle", samples, FIELDS) == {"type": 0.75, "color": 0.5, "brand": 0.25}


def test_a_title_without_any_known_field_is_judged_as_a_whole():
    assert agreement("A Thing", ["a thing", "Other", None, "A thing!"], FIELDS) == {"title": 0.5}


def test_without_samples_there_is_no_confidence():
    signals = signals_of("Red Kettle", samples=[], attributes={}, fields=FIELDS, violated=[], is_duplicate=False)
    assert signals == {} and confidences(signals) == {}
    assert judge(signals, confidence={}, violated=[], gate=GateSection()) == ("accepted", [])


@pytest.mark.parametrize(
    ("attributes", "kinds"),
    [
        ({"color": "blue"}, ["color"]),
        ({"colour": "Red"}, []),
        ({"color": "black, red"}, []),
        ({"pack_size": "6"}, ["count"]),
        ({"pack_size": "3 pieces"}, []),
        ({"size": "12 Ounces"}, []),
        ({"size": "16 oz"}, ["size"]),
        ({"material": "steel"}, []),  # the title says nothing of it
    ],
)
def test_a_field_contradicts_attributes_that_say_another_value_only(attributes, kinds):
    assert contradicted(FIELDS.stated("Red Kettle, 12 oz, 3-pack"), attributes) == kinds


def test_every_reason_against_a_title_is_named():
    signals = signals_of(
        "Red Kettle",
        samples=["red kettle", "blue kettle", "blue kettle"],
        attributes={"type": "game"},
        fields=FIELDS,
        violated=["banned: red"],
        is_duplicate=True,
    )
    assert signals == {
        "agreement.type": 1.0,
        "agreement.color": pytest.approx(1 / 3),
        "conflict.type": 1.0,
        "duplicate_title": 1.0,
        "violated": 1.0,
    }
    status, reasons = judge(
        signals, confidence=confidences(signals), violated=["banned: red"], gate=GateSection(confidence=0.5)
    )
    assert status == "review"
    assert reasons == [
        "low confidence in color: 0.33, below 0.50",
        "type is not what the item's attributes say",
        "another item has this title",
        "banned: red",
    ]
