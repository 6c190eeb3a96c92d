"""split_items: near-duplicates on one side, and an item's side decided by the item alone."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grpo_mmpc.catalogue import load_catalogue, split_items, splits
from grpo_mmpc.catalogue.duplicates import near_duplicate_groups
from grpo_mmpc.catalogue.normalise import title_key
from grpo_mmpc.catalogue.splits import image_groups, product_groups
from grpo_mmpc.catalogue.validation import validate_catalogue
from grpo_mmpc.errors import CatalogueError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))


def write(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    defaults = {"category": "Fruit", "image": None}
    (folder / "items.jsonl").write_text("".join(json.dumps({**defaults, **row}) + "\n" for row in rows))
    return folder


def items(count: int) -> list[dict]:
    return [{"item_id": f"item-{i}", "title": f"Product number {i}"} for i in range(count)]


def held_out_ids(folder: Path, *, held_out: float = 0.3, salt: str = "") -> set[str]:
    catalogue = load_catalogue(folder)
    split = split_items(catalogue, held_out=held_out, salt=salt)
    return {catalogue.items[i]["item_id"] for i in split.held_out}


def picture(seed: int) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((96, 96), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def test_the_sides_are_disjoint_and_share_no_title_and_no_image(tmp_path):
    # 60 products, each listed up to three times: under its title in another spelling, or with its
    # photo saved again.
    random.seed(0)
    (tmp_path / "images").mkdir()
    rows, product = [], []
    for i in range(60):
        for listing in range(random.randint(1, 3)):
            name = f"images/{i}-{listing}.jpg"
            same_photo = listing != 1
            image = picture(i) if same_photo else picture(1000 + i)
            (tmp_path / name).write_bytes(jpeg(image, quality=90 - 20 * listing))
            title = [f"Product {i} Deluxe", f"PRODUCT-{i}, deluxe!", f"Something else {i}"][listing]
            rows.append({"item_id": f"{i}-{listing}", "title": title, "image": name})
            product.append(i)
    order = random.sample(range(len(rows)), len(rows))
    catalogue = load_catalogue(write(tmp_path, [rows[k] for k in order]))
    split = split_items(catalogue, held_out=0.3)

    assert sorted(split.train + split.held_out) == list(range(len(rows)))
    sides = [split.train, split.held_out]
    products = [{product[order[i]] for i in side} for side in sides]
    assert products[0].isdisjoint(products[1])
    assert products[0] | products[1] == set(range(60))
    keys = [{title_key(catalogue.items[i]["title"]) for i in side} for side in sides]
    assert keys[0].isdisjoint(keys[1])
    assert split.num_groups == 60


def test_positions_ascend_and_groups_cover_every_item(tmp_path):
    split = split_items(load_catalogue(write(tmp_path, items(50))), held_out=0.3)
    assert split.train == sorted(split.train)
    assert split.held_out == sorted(split.held_out)
    assert split.groups.tolist() == list(range(50))


def test_the_side_does_not_depend_on_the_order(tmp_path):
    # Every product is listed twice, so that a group's side must not hang on which listing comes
    # first.
    rows = [{**row, "title": f"Product {i // 2}"} for i, row in enumerate(items(80))]
    forward = held_out_ids(write(tmp_path / "a", rows))
    assert held_out_ids(write(tmp_path / "b", rows[::-1])) == forward


def test_the_side_does_not_depend_on_unrelated_items(tmp_path):
    everything = held_out_ids(write(tmp_path / "a", items(200)))
    subset = {row["item_id"] for row in items(200)[::3]}
    assert held_out_ids(write(tmp_path / "b", items(200)[::3])) == everything & subset


def test_the_side_survives_a_new_title(tmp_path):
    before = held_out_ids(write(tmp_path / "a", items(80)))
    renamed = [{**row, "title": f"Renamed {row['item_id']}"} for row in items(80)]
    assert held_out_ids(write(tmp_path / "b", renamed)) == before


def test_a_new_near_duplicate_follows_its_group_unless_its_hash_comes_first(tmp_path):
    rows = items(40)
    before = held_out_ids(write(tmp_path / "a", rows))
    catalogue = load_catalogue(write(tmp_path / "b", [*rows, {"item_id": "copy", "title": "product NUMBER 3"}]))
    split = split_items(catalogue, held_out=0.3)
    assert (3 in split.held_out) == (40 in split.held_out)
    unrelated = {i for i in range(40) if i != 3}
    assert {f"item-{i}" for i in unrelated & set(split.held_out)} == before - {"item-3"}


def test_the_assignment_never_changes_between_versions(tmp_path):
    # BLAKE2b is the same everywhere. Written down when the rule was made: a change would mix the
    # sides of old runs.
    split = split_items(load_catalogue(write(tmp_path, items(12))), held_out=0.3)
    assert split.held_out == [0, 2, 7]


def test_a_larger_share_only_adds_held_out_items(tmp_path):
    folder = write(tmp_path, items(150))
    assert held_out_ids(folder, held_out=0.1) < held_out_ids(folder, held_out=0.3) < held_out_ids(folder, held_out=0.6)


def test_another_salt_is_another_split_of_about_the_same_size(tmp_path):
    folder = write(tmp_path, items(400))
    first, second = held_out_ids(folder, held_out=0.5), held_out_ids(folder, held_out=0.5, salt="other")
    # 400 items at one half: 200 expected, standard deviation sqrt(400 / 4) = 10; the overlap 100,
    # sqrt(400 * 3 / 16) = 9.
    assert abs(len(first) - 200) < 40
    assert abs(len(second) - 200) < 40
    assert abs(len(first & second) - 100) < 36


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_outside_zero_and_one_is_refused(tmp_path, share):
    with pytest.raises(CatalogueError, match=r"held_out is .*expected a share between 0 and 1"):
        split_items(load_catalogue(write(tmp_path, items(3))), held_out=share)


@pytest.mark.parametrize(("share", "side", "advice"), [(1e-9, "held-out", "raise"), (1 - 1e-9, "training", "lower")])
def test_an_empty_side_says_what_to_do(tmp_path, share, side, advice):
    with pytest.raises(CatalogueError, match=rf"no item falls on the {side} side .*only 4 groups.*{advice} held_out"):
        split_items(load_catalogue(write(tmp_path, items(4))), held_out=share)


def test_a_catalogue_of_one_product_cannot_be_split(tmp_path):
    rows = [{"item_id": str(i), "title": "Same"} for i in range(5)]
    with pytest.raises(CatalogueError, match=r"5 items form 1 group of near-duplicates .*add different items"):
        split_items(load_catalogue(write(tmp_path, rows)), held_out=0.5)


def test_images_need_not_have_been_checked_and_broken_ones_join_nothing(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.png").write_bytes(b"x")
    rows = [{**row, "image": "images/broken.png"} for row in items(40)]
    split = split_items(load_catalogue(write(tmp_path, rows), check_images=False), held_out=0.5)
    assert split.num_groups == 40


def test_groups_are_computed_once_for_a_content(tmp_path, monkeypatch):
    computed = []

    def counted(**arguments):
        computed.append(len(arguments["titles"]))
        return near_duplicate_groups(**arguments)

    monkeypatch.setattr(splits, "near_duplicate_groups", counted)
    folder = write(tmp_path / "a", [*items(40), {"item_id": "copy", "title": "product NUMBER 3"}])
    first = split_items(load_catalogue(folder), held_out=0.3)
    again = split_items(load_catalogue(folder), held_out=0.3)
    assert again == first and again.groups.tolist() == first.groups.tolist()
    assert validate_catalogue(folder).near_duplicate_items == 2
    assert computed == [41]
    write(folder, items(40))
    assert split_items(load_catalogue(folder), held_out=0.3).num_groups == 40
    assert computed == [41, 40]
    assert image_groups(load_catalogue(folder)).tolist() == image_groups(load_catalogue(folder)).tolist()
    assert computed == [41, 40, 40]


def test_groups_of_a_damaged_cache_are_computed_again(tmp_path):
    folder = write(tmp_path / "a", items(40))
    first = split_items(load_catalogue(folder), held_out=0.3)
    (stored,) = (tmp_path / "cache" / "groups").iterdir()
    stored.write_bytes(stored.read_bytes()[:150])
    assert split_items(load_catalogue(folder), held_out=0.3) == first


def test_groups_know_an_image_that_changed_under_its_name(tmp_path):
    (tmp_path / "images").mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(jpeg(picture(seed), 90))
    folder = write(tmp_path, [{"item_id": n, "title": n, "image": f"images/{n}.jpg"} for n in "ab"])
    assert product_groups(load_catalogue(folder)).tolist() == [0, 1]
    (tmp_path / "images" / "b.jpg").write_bytes(jpeg(picture(1), 60))
    assert product_groups(load_catalogue(folder, check_images=False)).tolist() == [0, 0]
    assert product_groups(load_catalogue(folder)).tolist() == [0, 0]
