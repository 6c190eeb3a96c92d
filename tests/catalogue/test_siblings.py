"""Titles that the catalogue itself gives: exact ones are taken, doubtful wait, wrong are left."""

import json

import pytest
from PIL import Image, ImageDraw

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.catalogue.siblings import Beside, Siblings, adapt


@pytest.mark.parametrize(
    ("title", "theirs", "own", "text", "unknown"),
    [
        (
            "Chaz Hoodie-S-Black",
            {"size": "S", "color": "Black"},
            {"size": "XS", "color": "Black"},
            "Chaz Hoodie-XS-Black",
            set(),
        ),
        ("Men's Tee, S", {"size": "S"}, {"size": "M"}, "Men's Tee, M", set()),
        ("Acme RED Mug", {"color": "red"}, {"color": "blue"}, "Acme BLUE Mug", set()),
        ("Acme Mug, Red", {"color": "red"}, {"color": "sky blue"}, "Acme Mug, Sky Blue", set()),
        ("Mug, Pack of 3, 3 in 1", {"pack": "3"}, {"pack": "6"}, "Mug, Pack of 6, 3 in 1", set()),
        ("Acme Mug, Red", {}, {"color": "blue"}, "Acme Mug, Blue", set()),
        ("Acme Mug, Red", {"color": "red"}, {}, "Acme Mug, Red", {"color"}),
        ("Acme Mug, 12 oz", {}, {}, "Acme Mug, 12 oz", {"size"}),
        ("Acme Mug, 12 Ounces", {}, {"size": "12 oz"}, "Acme Mug, 12 Ounces", set()),
        ("Acme Mug", {"color": "red"}, {"color": "blue"}, "Acme Mug", set()),
    ],
)
def test_values_that_the_item_knows_otherwise_are_adapted_and_unknown_ones_named(title, theirs, own, text, unknown):
    assert adapt(title, theirs=theirs, own=own) == (text, unknown)


@pytest.mark.parametrize(
    ("title", "theirs", "own"),
    [
        ("Red Bull Drink, Red", {"color": "red"}, {"color": "blue"}),  # which of the two is the colour?
        ("Acme Mug, 12 oz", {}, {"size": "16 oz"}),
        ("Red and Blue Mug", {}, {"color": "green"}),
    ],
)
def test_a_title_that_cannot_be_adapted_for_certain_is_not_taken(title, theirs, own):
    assert adapt(title, theirs=theirs, own=own)[0] is None


def image(seed: int) -> Image.Image:
    one = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(one).rectangle((5 + 9 * seed, 5, 25 + 9 * seed, 50), fill="black")
    return one


@pytest.fixture
def titles(tmp_path):
    """Return what each item that wants a title gets; rows are ``item_id=(columns, image)``."""

    def run(*, wanting=None, **rows):
        (tmp_path / "images").mkdir()
        lines = []
        for item_id, (columns, picture) in rows.items():
            picture.save(tmp_path / "images" / f"{item_id}.png")
            row = {"item_id": item_id, "category": "c", "title": None, "description": None, "parent_id": None}
            lines.append(row | {"image": f"images/{item_id}.png", "attributes": None} | columns)
        (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        source = load_catalogue(tmp_path)
        untitled = [place for place, record in enumerate(source.records()) if record.title is None]
        siblings = Siblings(source, wanting=wanting)
        return {
            source.record(place).item_id: siblings.title(place, source.record(place)) for place in wanting or untitled
        }

    return run


def test_a_variant_gives_its_title_also_where_it_is_the_parent_itself(titles):
    given = titles(
        a=({"title": "Mug, Red", "attributes": {"color": "red"}}, image(0)),
        b=({"parent_id": "a", "attributes": {"color": "blue"}}, image(1)),
        c=({"parent_id": "a"}, image(2)),
    )
    assert given["b"] == Beside(value="Mug, Blue", source="sibling", source_item="a")
    assert given["c"].value == "Mug, Red" and given["c"].doubt.startswith("color ")


def test_an_image_that_several_products_share_gives_no_title(titles):
    given = titles(
        a=({"title": "Acme Kettle"}, image(0)),
        b=({}, image(0)),
        c=({"title": "Bolt Mug"}, image(1)),
        d=({"title": "Cask Vase"}, image(1)),
        e=({}, image(1)),
        f=({"title": "Dune Lamp"}, Image.new("RGB", (64, 64), "gray")),
        g=({}, Image.new("RGB", (64, 64), "gray")),
    )
    assert given == {"b": Beside(value="Acme Kettle", source="same image", source_item="a"), "e": None, "g": None}


def test_the_same_image_confirms_the_colour_and_not_the_size(titles):
    given = titles(a=({"title": "Red Mug, 12 oz"}, image(0)), b=({}, image(0)))
    assert given["b"].doubt == "size as the other item has it, which nothing confirms"


def test_an_items_own_name_or_heading_is_its_title(titles):
    given = titles(
        a=({"attributes": {"Product_Name": "Acme Kettle"}}, image(0)),
        b=({"description": "Acme Mug\nHolds coffee."}, image(1)),
        c=({"description": "Holds coffee.\nAnd tea."}, image(2)),
        d=({"titles": ["Acme Pot", "Pot"], "attributes": {"name": "Pan"}}, image(3)),
    )
    assert given["a"] == Beside(value="Acme Kettle", source="own field")
    assert given["b"] == Beside(value="Acme Mug", source="own field", doubt="the first line of the description")
    assert given["c"] is None
    assert given["d"] == Beside(value="Acme Pot", source="own field")


def test_an_item_that_has_a_title_gets_that_of_another_item_where_one_is_wanted(titles):
    given = titles(
        wanting=[0, 1, 3],
        a=({"title": "Mug, Red", "parent_id": "p", "attributes": {"color": "red"}}, image(0)),
        b=({"title": "Big Mug, Blue", "parent_id": "p", "attributes": {"color": "blue"}}, image(1)),
        c=({"title": "Acme Kettle"}, image(2)),
        d=({"title": "Bolt Lamp", "titles": ["Lamp"], "parent_id": "q"}, image(3)),
    )
    assert given == {
        "a": Beside(value="Big Mug, Red", source="sibling", source_item="b"),
        "b": Beside(value="Mug, Blue", source="sibling", source_item="a"),
        "d": None,
    }
