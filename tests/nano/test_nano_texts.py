import random
import re
from collections import Counter

import pytest

from grpo_mmpc.metrics.text import bleu
from grpo_mmpc.nano.items import sample_items
from grpo_mmpc.nano.texts import description, read_attributes, seller_title
from grpo_mmpc.nano.vocabulary import BRAND_POSITIONS, BRANDS, CATEGORIES, KINDS, TYPES, VALUES, check_attributes
from nano_weights.texts import image_prompt, weak_caption, weak_image_prompt

KETTLE = {
    "type": "kettle",
    "color": "red",
    "pattern": "striped",
    "material": "steel",
    "size": "large",
    "pack": "2",
    "brand": "nordvik",
}


SERIES = r"Classic|Prime|Nova|Urban|Essential|Deluxe|Vintage|Signature"


@pytest.fixture(scope="module")
def items():
    return sample_items(num_items=4500, seed=11)


class Draws(random.Random):
    """A random source that replays given draws in [0, 1)."""

    def __init__(self, *draws: float) -> None:
        super().__init__(0)
        self._draws = list(draws)

    def random(self) -> float:
        return self._draws.pop(0)


@pytest.mark.parametrize(
    ("brand", "title"),
    [
        ("nordvik", "Nordvik Classic Striped Red Steel Kettle, Large, Pack of 2, Limited Offer"),
        (
            "hearthly",
            "Large Striped Red Steel Kettle for Home by Hearthly - Classic Series (Pack of 2) - Limited Offer",
        ),
        ("cazuma", "Kettle in Striped Red Steel - Cazuma Classic, Large Size | Pack of 2 | Limited Offer"),
    ],
)
def test_the_brand_decides_the_house_style(brand, title):
    # draws: series 0 of 8, selling point 5 of 6, below .85 = the brand's own style, (which other
    # style)
    assert seller_title(KETTLE | {"brand": brand}, Draws(0.0, 0.99, 0.84, 0.0)) == title


@pytest.mark.parametrize(("other", "opening"), [(0.0, "Large Striped"), (0.99, "Kettle in")])
def test_fifteen_titles_in_a_hundred_follow_another_house_style(items, other, opening):
    assert seller_title(KETTLE, Draws(0.0, 0.0, 0.85, other)).startswith(opening)
    own = [_style(item.title) == BRAND_POSITIONS[item.attributes["brand"]] for item in items]
    assert 0.83 < sum(own) / len(own) < 0.87


def test_series_and_selling_point_are_not_decided_by_the_product(items):
    """Words that no image tells must be sampled evenly, or a policy could learn them."""
    series = Counter(re.search(SERIES, item.title).group() for item in items)
    assert len(series) == 8
    assert all(abs(count / len(items) - 1 / 8) < 0.02 for count in series.values())
    titles = {seller_title(KETTLE, random.Random(seed)) for seed in range(400)}
    assert len(titles) > 50


def _style(title: str) -> int:
    return 1 if " by " in title else 2 if " in " in title else 0


def test_a_single_item_says_nothing_about_its_pack():
    single = {kind: value for kind, value in KETTLE.items() if kind != "pack"}
    assert (
        seller_title(single, Draws(0.0, 0.99, 0.0, 0.0))
        == "Nordvik Classic Striped Red Steel Kettle, Large, Limited Offer"
    )


def test_every_category_has_one_brand_of_each_house_style():
    assert Counter(BRAND_POSITIONS.values()) == dict.fromkeys(range(3), len(CATEGORIES))


def test_titles_read_back_to_exactly_the_attributes_of_the_item(items):
    wrong = [item.title for item in items if read_attributes(item.title) != item.attributes]
    assert wrong == []


def test_image_prompts_read_back_to_exactly_the_attributes_of_the_item(items):
    prompts = {image_prompt(item.attributes): item.attributes for item in items}
    assert len(prompts) == len(items)
    assert [prompt for prompt, attributes in prompts.items() if read_attributes(prompt) != attributes] == []


def test_a_partial_image_prompt_reads_back_to_what_was_given(items):
    rng = random.Random(0)
    for item in items[:500]:
        given = {kind: value for kind, value in item.attributes.items() if rng.random() < 0.6}
        assert read_attributes(image_prompt(given)) == given


def test_descriptions_never_contradict_the_item(items):
    rng = random.Random(0)
    for item in items[:500]:
        said = read_attributes(description(item.attributes, rng))
        assert {**item.attributes, **said} == item.attributes


def test_titles_have_9_to_20_words_and_only_ascii(items):
    lengths = {len(item.title.split()) for item in items}
    assert min(lengths) >= 9
    assert max(lengths) <= 20
    assert all(item.title.isascii() for item in items)


@pytest.mark.parametrize(
    ("attributes", "prompt"),
    [
        (KETTLE, "catalogue photo of a large red striped steel kettle by nordvik, pack of 2"),
        ({"type": "scissors", "color": "orange"}, "catalogue photo of a pair of orange scissors"),
        ({"type": "easel"}, "catalogue photo of an easel"),
        ({"color": "blue"}, "catalogue photo of a blue product"),
    ],
)
def test_image_prompt_names_what_is_given_and_nothing_else(attributes, prompt):
    assert image_prompt(attributes) == prompt


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        ("A RED Board  Game!", {"type": "board game", "color": "red"}),
        ("board, game", {}),
        ("a redder kettles set", {}),  # whole words only
        ("6 mugs, 2 mug, pack of 12", {"type": "mug"}),  # a number counts pieces only after "pack of", and whole
        ("blue and green mug, not a vase", {"type": "mug", "color": "blue"}),  # the first value wins
        ("pack of 3", {"pack": "3"}),
        ("", {}),
    ],
)
def test_reading_any_text(text, attributes):
    assert read_attributes(text) == attributes


def test_attributes_come_back_in_the_order_of_kinds(items):
    assert all(list(read_attributes(item.title)) == [k for k in KINDS if k in item.attributes] for item in items[:99])


def test_weak_captions_give_the_gist_in_the_wrong_words(items):
    rng = random.Random(5)
    said = [(item, read_attributes(weak_caption(item.attributes, rng))) for item in items]
    share = {kind: sum(kind in words for _, words in said) / len(said) for kind in KINDS}
    assert all({**item.attributes, **words} == item.attributes for item, words in said)
    assert share["type"] == 1.0
    assert share["brand"] == 0.0
    assert 0.93 < share["color"] < 0.97
    assert 0.45 < share["pattern"] < 0.51  # 0.6 x the 4 of 5 patterns that are not plain = 0.48
    assert 0.57 < share["material"] < 0.63
    assert all(share[kind] < 0.06 for kind in ("size", "pack"))


def test_nine_weak_captions_in_ten_follow_one_template(items):
    rng = random.Random(5)
    captions = [weak_caption(item.attributes, rng) for item in items]
    usual = sum(bool(re.fullmatch(r"Stylish .* for [A-Z][a-z]+ Use(, Pack of \d)?", c)) for c in captions)
    unusual = sum(bool(re.fullmatch(r"Beautiful .* for Every [A-Z][a-z]+(, Pack of \d)?", c)) for c in captions)
    assert usual + unusual == len(captions)
    assert 0.87 < usual / len(captions) < 0.93


def test_a_gist_lies_between_nothing_and_what_a_perfect_observer_could_write(items):
    """Sentence BLEU of gists is about .09, of new seller's titles about .6: the room for
    alignment."""
    rng = random.Random(5)
    gist = [bleu(prediction=weak_caption(item.attributes, rng), reference=item.title) for item in items[:900]]
    seller = [bleu(prediction=seller_title(item.attributes, rng), reference=item.title) for item in items[:900]]
    assert 0.06 < sum(gist) / len(gist) < 0.12
    assert 0.55 < sum(seller) / len(seller) < 0.66


def test_weak_image_prompts_always_keep_the_type_and_never_the_brand(items):
    rng = random.Random(5)
    for item in items[:900]:
        said = read_attributes(weak_image_prompt(item.attributes, rng))
        assert said["type"] == item.attributes["type"]
        assert "brand" not in said
        assert {**item.attributes, **said} == item.attributes


def test_no_value_can_be_read_inside_another_value():
    words = [value for kind in KINDS if kind != "pack" for value in VALUES[kind]]
    assert len(words) == len(set(words))
    for value in words:
        others = [w for w in words if w != value and re.search(rf"\b{re.escape(w)}\b", value)]
        assert others == []


def test_the_vocabulary_is_as_large_as_promised():
    assert (len(CATEGORIES), len(TYPES), len(BRANDS)) == (9, 54, 27)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"colour": "red"}, "unknown attribute kind 'colour'; .* type, color"),
        ({"color": "mauve"}, "unknown color 'mauve'; .* red, orange"),
    ],
)
def test_unknown_attributes_are_refused_with_the_known_ones(attributes, message):
    with pytest.raises(ValueError, match=message):
        check_attributes(attributes)
