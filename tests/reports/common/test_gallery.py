"""Items to look at: which are shown, under which name, and their images."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.reports.common.gallery import Answer, Item, confirmed
from grpo_mmpc.reports.common.templates import _environment
from grpo_mmpc.reports.common.thumbnails import thumbnails
from grpo_mmpc.reports.run.examples import AFTER, BEFORE, choose


def item(name: str, delta: float, category: str = "Toys") -> Item:
    def answer(score: float) -> Answer:
        return Answer(prediction="x", completion="x", score=score, rendered=None)

    answers = {BEFORE: answer(0.0), AFTER: answer(delta)}
    return Item(item_id=name, category=category, reference="x", image=None, answers=answers)


def names(items: list[Item]) -> list[str]:
    return [shown.item_id for shown in items]


def test_groups_are_the_extremes_and_the_middle() -> None:
    deltas = {"a": 0.9, "b": 0.5, "c": 0.31, "d": 0.3, "e": 0.29, "f": -0.1, "g": -0.6}
    # The median is .3 (d); c and e are next to it.
    best, middle, worst = choose([item(name, delta) for name, delta in deltas.items()], count=2)
    assert (best.title, names(best.items)) == ("Improved most", ["a", "b"])
    assert (worst.title, names(worst.items)) == ("Got worst", ["g", "f"])
    assert middle.title == "In the middle"
    assert middle.items[0].item_id == "d"


def test_at_most_two_of_a_category_while_others_remain() -> None:
    items = [item(f"t{n}", 0.9 - n / 100, "Toys") for n in range(6)] + [item("o", 0.1, "Office")]
    best = choose(items, count=3)[0]
    assert names(best.items) == ["t0", "t1", "o"]


def test_a_single_category_fills_the_group_all_the_same() -> None:
    items = [item(f"t{n}", 0.9 - n / 100) for n in range(12)]
    assert names(choose(items, count=4)[0].items) == ["t0", "t1", "t2", "t3"]


def test_no_item_is_shown_twice() -> None:
    groups = choose([item("a", 0.1), item("b", 0.2), item("c", 0.3), item("d", 0.4)], count=3)
    shown = [name for group in groups for name in names(group.items)]
    assert sorted(shown) == ["a", "b", "c", "d"]


def test_groups_are_not_called_worse_or_better_than_they_are() -> None:
    titles = [group.title for group in choose([item(f"a{n}", 0.1 + n / 10) for n in range(9)], count=2)]
    assert titles[-1] == "Improved least: no item chosen here got worse"
    titles = [group.title for group in choose([item(f"a{n}", -0.1 - n / 10) for n in range(9)], count=2)]
    assert titles[0] == "Changed least: no item improved"
    [group] = choose([item(f"a{n}", 0.0) for n in range(9)], count=2)
    assert group.title == "No item changed" and len(group.items) == 6


def test_the_order_of_the_input_does_not_matter() -> None:
    items = [item(f"a{n}", 0.0, f"C{n % 3}") for n in range(20)]
    assert choose(items, count=3) == choose(items[::-1], count=3)


def test_no_items_no_groups() -> None:
    assert choose([], count=4) == []


def test_words_of_the_reference_are_marked() -> None:
    answer = Answer(prediction="Acme red Bag, large", completion="", score=0.0, rendered=None)
    text = answer.text("Red bag by ACME")
    assert text.pieces == [("Acme", True), (" ", False), ("red", True), (" ", False), ("Bag", True), (", large", False)]


def test_words_that_any_description_has_confirm_nothing() -> None:
    facts = ["red", "Made for the kitchen, in 2 sizes. Für Tee und Kaffee."]
    assert [
        word for word, is_confirmed in confirmed("Red Pot for Tea in the Kitchen, 2 l, für Tee", facts) if is_confirmed
    ] == [
        *("Red", "Kitchen", "2", "Tee"),
    ]


def test_a_malformed_completion_is_shown_raw_and_unmarked() -> None:
    answer = Answer(prediction=None, completion="red bag {", score=0.0, rendered=None)
    text = answer.text("red bag")
    assert text.is_malformed
    assert text.pieces == [("red bag {", False)]


def test_without_a_reference_nothing_is_marked() -> None:
    answer = Answer(prediction="red bag", completion="", score=0.0, rendered=None)
    assert answer.text(None).pieces == [("red bag", False)]


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "CMYK", "I;16", "1"])
def test_images_of_every_mode_become_small_rgb_pictures(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    Image.new(mode, (600, 300)).save(path)
    picture = decode(thumbnails([path], folders=[tmp_path], budget=100_000)[path])
    assert picture.size == (256, 128)


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    uri = thumbnails([tmp_path / "clear.png"], folders=[tmp_path], budget=100_000)[tmp_path / "clear.png"]
    assert decode(uri).convert("RGB").getpixel((4, 4)) == (255, 255, 255)


def test_files_that_are_no_images_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    broken = [tmp_path / name for name in ("empty.png", "text.png", "cut.png", "missing.png")]
    assert thumbnails(broken, folders=[tmp_path], budget=100_000) == {}


def test_decompression_bombs_are_not_opened(tmp_path: Path) -> None:
    Image.new("1", (12_000, 12_000)).save(tmp_path / "bomb.png")
    assert thumbnails([tmp_path / "bomb.png"], folders=[tmp_path], budget=100_000) == {}


def test_pictures_shrink_until_they_fit_together(tmp_path: Path) -> None:
    paths = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.effect_noise((400, 400), 90).save(path)
        paths.append(path)
    plenty, little = (thumbnails(paths, folders=[tmp_path], budget=budget) for budget in (10_000_000, 60_000))
    assert {decode(uri).size for uri in plenty.values()} == {(256, 256)}
    assert sum(map(len, little.values())) <= 60_000
    assert len({decode(uri).size for uri in little.values()}) == 1


@pytest.mark.parametrize(("item_id", "is_said"), [("nano-00001", True), ("B01", False)])
def test_where_items_are_of_the_nano_catalogue_a_legend_says_what_their_marks_mean(item_id, is_said):
    template = _environment().from_string('{% import "reports/common/parts.html" as parts %}{{ parts.drawings(item) }}')
    said = template.render(item={"item_id": item_id})
    assert ("the shape is the type, its fill colour and pattern" in said) == is_said
