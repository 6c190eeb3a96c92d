"""The audit: fields of existing titles that attributes or a confident reading of the image deny."""

import pytest

from grpo_mmpc.metrics.fields import Fields
from grpo_mmpc.pipelines.known_titles import Contradiction, contradictions
from grpo_mmpc.types import ProductRecord

FIELDS = Fields([{"type": "kettle", "color": "red"}, {"type": "mug", "color": "blue"}])


def record(title: str, **attributes: str) -> ProductRecord:
    return ProductRecord(item_id="i", category="c", title=title, description=None, image="i.png", attributes=attributes)


def listed(one: ProductRecord, answer: str = "", **shares: float) -> list[Contradiction]:
    return contradictions(one, answer, shares, fields=FIELDS, least=0.5)


def test_a_confident_reading_of_the_image_denies_a_title():
    [one] = listed(record("Red Kettle"), "blue kettle", type=1.0, color=0.75)
    assert (one.kind, one.title_says, one.image_says, one.attributes_say) == ("color", ["red"], ["blue"], None)
    assert one.confidence == 0.75
    assert one.text() == "i: the title says red, the image blue (0.75)"


@pytest.mark.parametrize(
    ("title", "answer", "shares"),
    [
        ("Red Kettle", "blue kettle", {"color": 0.25}),  # not sure
        ("Red Kettle", "kettle", {"type": 1.0}),  # says nothing of the colour
        ("Kettle", "blue kettle", {"color": 1.0}),  # the title says nothing of it
        ("Red and Blue Kettle", "blue kettle", {"color": 1.0}),
        ("Red Kettle", "", {}),  # no answer
    ],
)
def test_doubt_and_silence_deny_nothing(title, answer, shares):
    assert listed(record(title), answer, **shares) == []


def test_attributes_deny_a_title_without_any_image():
    [one] = listed(record("Red Kettle", colour="Blue", type="kettle"))
    assert (one.kind, one.attributes_say, one.image_says, one.confidence) == ("color", ["Blue"], None, None)
    assert one.text() == "i: the title says red, the attributes Blue"
