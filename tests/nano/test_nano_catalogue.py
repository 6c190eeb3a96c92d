import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from PIL import Image

from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.nano import catalogue, interactions
from grpo_mmpc.nano.catalogue import build_catalogue
from grpo_mmpc.nano.items import sample_items, signature
from grpo_mmpc.nano.vocabulary import CATEGORIES, TYPES_BY_CATEGORY


def read_rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_items_are_distinct_and_their_titles_too():
    items = sample_items(num_items=3600, seed=0)
    assert len({signature(item) for item in items}) == 3600
    assert len({item.title for item in items}) == 3600
    assert len({item.item_id for item in items}) == 3600


def test_categories_differ_by_at_most_one_item():
    counts = Counter(item.category for item in sample_items(num_items=100, seed=3))
    assert sorted(counts.values()) == [11] * 8 + [12]  # 100 = 9 x 11 + 1
    assert set(counts) == set(CATEGORIES)


def test_attributes_are_plausible_for_the_type():
    for item in sample_items(num_items=900, seed=3):
        assert item.attributes["material"] in TYPES_BY_CATEGORY[item.category][item.attributes["type"]]


def test_a_quarter_of_the_items_are_sold_singly_and_carry_no_pack():
    items = sample_items(num_items=3600, seed=0)
    single = [item for item in items if "pack" not in item.attributes]
    assert 0.22 < len(single) / 3600 < 0.28
    assert not any("Pack" in item.title for item in single)
    assert all(item.attributes.get("pack") != "1" for item in items)


def test_there_are_hundreds_of_thousands_of_combinations():
    materials = sum(len(m) for types in TYPES_BY_CATEGORY.values() for m in types.values())
    # x 10 colours x 5 patterns x 3 sizes x 4 packs x 3 brands of the category
    assert materials * 10 * 5 * 3 * 4 * 3 > 200_000


def test_another_seed_gives_other_items_and_excluded_ones_never_come():
    first = sample_items(num_items=2000, seed=0)
    taken = {signature(item) for item in first}
    fresh = sample_items(num_items=2000, seed=1, exclude=taken)
    assert not taken & {signature(item) for item in fresh}
    assert not taken & {signature(item) for item in sample_items(num_items=2000, seed=0, exclude=taken)}


def test_the_first_item_is_the_same_in_every_process_and_version():
    code = "from grpo_mmpc.nano.items import sample_items; print(sample_items(num_items=50, seed=0))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env=environment | {"PYTHONHASHSEED": s}, capture_output=True, check=True
        ).stdout
        for s in ("1", "2")
    }
    assert len(outputs) == 1
    assert sample_items(num_items=1, seed=0)[0].title == (
        "Shampoo Bottle in Checkered Brown Glass - Oradew Classic, Medium Size | Pack of 6 | Easy Care"
    )


def test_fewer_items_of_a_seed_are_the_beginning_of_more():
    assert sample_items(num_items=30, seed=4) == sample_items(num_items=60, seed=4)[:30]


def test_the_folder_holds_every_item_its_image_and_known_interactions(tmp_path):
    folder = build_catalogue(tmp_path / "nano", num_items=45, seed=2)
    assert folder == tmp_path / "nano"
    rows = read_rows(folder / "items.jsonl")
    items = sample_items(num_items=45, seed=2)
    assert [row["title"] for row in rows] == [item.title for item in items]
    assert [row["attributes"] for row in rows] == [item.attributes for item in items]
    assert set(rows[0]) == {"item_id", "category", "title", "description", "image", "attributes"}
    for row in rows:
        with Image.open(folder / row["image"]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (84, 84))
    bought = read_rows(folder / "interactions.jsonl")
    assert {row["item_id"] for row in bought} <= {row["item_id"] for row in rows}
    assert set(bought[0]) == {"user_id", "item_id", "timestamp", "rating"}


def test_one_seed_gives_one_folder_byte_for_byte(tmp_path):
    first = build_catalogue(tmp_path / "a", num_items=18, seed=2)
    second = build_catalogue(tmp_path / "b", num_items=18, seed=2)
    assert content(first) == content(second)


def test_the_same_command_again_finds_all_done_and_another_one_is_refused(tmp_path):
    folder = build_catalogue(tmp_path / "a", num_items=9, seed=2)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert build_catalogue(folder, num_items=9, seed=2) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    for other in ({"num_items": 9, "seed": 3}, {"num_items": 9, "seed": 2, "hard": True}):
        with pytest.raises(CatalogueError, match="exists and is not an empty folder"):
            build_catalogue(folder, **other)


def test_a_folder_with_something_in_it_is_never_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(CatalogueError, match=r"mine exists and is not an empty folder; remove it or choose"):
        build_catalogue(tmp_path / "mine", num_items=9)
    assert content(tmp_path) == {(tmp_path / "mine/notes.txt").relative_to(tmp_path): b"keep"}


def test_an_interrupted_build_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(interactions, "sample_interactions", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_catalogue(tmp_path / "nano", num_items=9)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_default(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path))
    monkeypatch.setattr(catalogue, "DEFAULT_NUM_ITEMS", 27)
    return tmp_path


def test_the_default_catalogue_is_built_once(small_default, monkeypatch):
    folder = catalogue.ensure_catalogue()
    assert folder == small_default / "nano-catalogue" / catalogue.generator_version()
    assert len(read_rows(folder / "items.jsonl")) == 27
    monkeypatch.setattr(catalogue, "build_catalogue", None)  # a second build would fail
    assert catalogue.ensure_catalogue() == folder


def test_the_process_that_loses_the_race_uses_the_winner_s_folder(small_default, monkeypatch):
    """The other process finishes while ours is still writing: our rename finds the place taken."""
    shop = interactions.sample_interactions

    def other_process_wins(items, *, seed):
        monkeypatch.setattr(interactions, "sample_interactions", shop)
        build_catalogue(small_default / "nano-catalogue" / catalogue.generator_version(), num_items=27, seed=0)
        return shop(items, seed=seed)

    monkeypatch.setattr(interactions, "sample_interactions", other_process_wins)
    folder = catalogue.ensure_catalogue()
    assert len(list((folder / "images").iterdir())) == 27
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # the loser's copy is gone


def test_two_processes_at_once_both_end_with_the_complete_folder(small_default):
    code = (
        "from grpo_mmpc.nano import catalogue; catalogue.DEFAULT_NUM_ITEMS = 27; "
        "folder = catalogue.ensure_catalogue(); print(folder, len(list((folder / 'images').iterdir())))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert outputs == [f"{small_default / 'nano-catalogue' / catalogue.generator_version()} 27\n"] * 2


def test_a_damaged_cache_says_which_folder_to_remove(small_default):
    folder = catalogue.ensure_catalogue()
    (folder / "items.jsonl").unlink()
    with pytest.raises(CatalogueError, match=f"{folder} lost files; remove that folder"):
        catalogue.ensure_catalogue()
