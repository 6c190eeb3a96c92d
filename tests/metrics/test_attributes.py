"""The rules by which a text states an attribute."""

import math

import pytest

from grpo_mmpc.metrics.attributes import attribute_recall, attribute_recall_of


def states(prediction: str, value: str, *, kind: str = "type") -> float:
    return attribute_recall_of(prediction=prediction, attributes={kind: value}, kind=kind)


@pytest.mark.parametrize(
    ("prediction", "value"),
    [
        ("Acme TOTE BAG, red", "tote bag"),
        ("two tote-bags", "tote bag"),
        ("Tote\nBags", "tote bag"),
        ("a grey mug", "gray"),
        ("brushes", "brush"),
        ("knife set", "knives"),
        ("AA Batteries", "battery"),
        ("reading glasses", "glass"),
        ("12oz bottle", "12 oz"),
        ("Sony WH1000XM4", "wh1000xm4"),
        ("GRÖSSE XL", "größe xl"),
        ("T Shirt", "t-shirt"),
    ],
)
def test_a_value_is_stated_whatever_its_case_number_and_hyphens(prediction: str, value: str) -> None:
    assert states(prediction, value) == 1.0


@pytest.mark.parametrize(
    ("prediction", "value"),
    [
        ("redwood bowl", "red"),
        ("hairbrush", "brush"),
        ("bag tote", "tote bag"),
        ("tote and bag", "tote bag"),
        ("brass ring", "bras"),
        ("12 mugs", "2"),
        ("XL shirt", "l"),
        ("", "red"),
        ("!!!", "red"),
    ],
)
def test_a_value_is_not_stated_by_parts_of_words_or_out_of_order(prediction: str, value: str) -> None:
    assert states(prediction, value) == 0.0


@pytest.mark.parametrize(
    "prediction",
    [
        "Bag, Pack of 2",
        "Bag (2 Pack)",
        "Bag 2-pack",
        "Bag -2 Pack",
        "2pack bag",
        "Set of two bags",
        "2 pcs bag",
        "2-Count bags",
        "box of 2",
        "bags x2",
        "Pack: 2",
        "2 sets",
    ],
)
def test_a_pack_is_stated_by_a_phrase(prediction: str) -> None:
    assert states(prediction, "2", kind="pack") == 1.0


@pytest.mark.parametrize(
    "prediction", ["Pack of 12", "2 pockets", "tote bag 2 pockets", "20 pack", "2 x 3 inch", "bag"]
)
def test_a_pack_is_not_stated_by_another_number_or_a_bare_one(prediction: str) -> None:
    assert states(prediction, "2", kind="pack") == 0.0


def test_the_catalogue_may_write_the_pack_as_a_phrase() -> None:
    assert states("Bag, 6 pack", "Pack of 6", kind="pack") == 1.0
    assert states("Bag, pack of 2", "Pack of 6", kind="pack") == 0.0


def test_a_pack_of_one_and_unknown_or_blank_values_are_unscored() -> None:
    assert math.isnan(states("Bag", "1", kind="pack"))
    assert math.isnan(states("Bag", " "))
    assert math.isnan(attribute_recall_of(prediction="Bag", attributes={"type": "bag"}, kind="color"))


def test_recall_is_the_share_of_known_attributes() -> None:
    # type and pack stated, colour not, size blank: 2 of 3
    known = {"type": "bag", "color": "red", "pack": "2", "size": ""}
    assert attribute_recall(prediction="Blue bags, 2 pack", attributes=known) == pytest.approx(2 / 3)


def test_recall_without_known_attributes_is_unscored() -> None:
    assert math.isnan(attribute_recall(prediction="Bag", attributes={}))
    assert math.isnan(attribute_recall(prediction="Bag", attributes={"pack": "1"}))
