"""load_catalogue: no row is lost, broken images are set aside, and nothing stale is ever read."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from grpo_mmpc.catalogue import load_catalogue, write_quarantine
from grpo_mmpc.catalogue.arrow_cache import data_rows
from grpo_mmpc.catalogue.quarantine import read_quarantine
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.types import ProductRecord, Quarantined


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "catalogue" / "images").mkdir(parents=True)
    return tmp_path / "catalogue"


def write(folder: Path, *rows: dict) -> None:
    defaults = {"category": "Fruit", "title": "Apple", "image": None}
    (folder / "items.jsonl").write_text("".join(json.dumps({**defaults, **row}) + "\n" for row in rows))


def picture(folder: Path, name: str, colour: str = "red") -> str:
    Image.new("RGB", (8, 8), colour).save(folder / "images" / name)
    return f"images/{name}"


def item_ids(folder: Path, **options) -> list[str]:
    return load_catalogue(folder, **options).items["item_id"][:]


def test_a_record_has_every_field(folder):
    write(
        folder,
        {"item_id": 1, "description": "Round.", "image": picture(folder, "a.png"), "attributes": {"color": "red"}},
    )
    catalogue = load_catalogue(folder)
    record = ProductRecord(
        item_id="1",
        category="Fruit",
        title="Apple",
        description="Round.",
        image="images/a.png",
        attributes={"color": "red"},
    )
    assert catalogue.record(0) == record
    assert list(catalogue.records()) == [record]
    assert catalogue.image_path(record) == (folder / "images" / "a.png").resolve()


def test_an_item_without_image_has_no_image_path(folder):
    write(folder, {"item_id": "a"})
    catalogue = load_catalogue(folder)
    assert catalogue.image_path(catalogue.record(0)) is None


# --- identifiers


def test_the_later_row_with_an_item_id_is_set_aside_and_names_the_first(folder):
    write(
        folder, {"item_id": "a"}, {"item_id": "x", "category": ""}, {"item_id": 7}, {"item_id": "a"}, {"item_id": "7"}
    )
    catalogue = load_catalogue(folder)
    assert catalogue.items["item_id"][:] == ["a", "7"]
    assert {q.row: q.reason.split(",")[0] for q in catalogue.quarantined} == {
        2: "category is missing; name the department the item belongs to",
        4: "item_id a already names row 1",
        5: "item_id 7 already names row 3",
    }
    assert catalogue.duplicate_ids == 2
    assert catalogue.broken_by_category == {"Fruit": 2, "(unknown)": 1}


def test_a_broken_row_does_not_block_its_identifier(folder):
    write(folder, {"item_id": "a", "category": None}, {"item_id": "a"})
    catalogue = load_catalogue(folder)
    assert catalogue.items["item_id"][:] == ["a"]
    assert [q.row for q in catalogue.quarantined] == [1]


def test_duplicates_are_found_across_the_batches_of_a_large_file(folder):
    ids = [f"item-{i}" for i in range(9000)]
    write(folder, *({"item_id": i} for i in [*ids, ids[5], ids[8999]]))
    catalogue = load_catalogue(folder)
    assert catalogue.items["item_id"][:] == ids
    assert [(q.row, q.item_id) for q in catalogue.quarantined] == [(9001, "item-5"), (9002, "item-8999")]


@pytest.mark.parametrize(
    ("broken", "rows"), [([], [1, 2, 3]), ([2, 3], [1, 4, 5]), ([1], [2, 3, 4]), ([4, 9], [1, 2, 3])]
)
def test_the_data_row_of_an_item_skips_the_rows_set_aside(broken, rows):
    assert data_rows(3, broken_rows=broken).tolist() == rows


# --- images


def test_every_broken_image_sets_its_row_aside_with_file_row_and_reason(folder):
    good = picture(folder, "good.png")
    (folder / "images" / "empty.jpg").touch()
    (folder / "images" / "page.jpg").write_text("<html>")
    whole = (folder / "images" / "good.png").read_bytes()
    (folder / "images" / "half.png").write_bytes(whole[: len(whole) // 2])
    write(
        folder,
        {"item_id": "none"},
        {"item_id": "empty", "image": "images/empty.jpg"},
        {"item_id": "bad", "category": None},
        {"item_id": "good", "image": good},
        {"item_id": "half", "image": "images/half.png", "category": "Tools"},
        {"item_id": "page", "image": "images/page.jpg"},
        {"item_id": "gone", "image": "images/gone.png"},
        {"item_id": "again", "image": good},
    )
    catalogue = load_catalogue(folder)
    assert catalogue.items["item_id"][:] == ["none", "good", "again"]
    found = {q.row: (q.file, q.item_id, q.reason) for q in catalogue.quarantined}
    assert {row: item_id for row, (_, item_id, _) in found.items()} == {
        2: "empty",
        3: "bad",
        5: "half",
        6: "page",
        7: "gone",
    }
    assert {file for file, _, _ in found.values()} == {"items.jsonl"}
    assert "images/empty.jpg is empty (0 bytes)" in found[2][2]
    assert "images/half.png is damaged" in found[5][2]
    assert "images/page.jpg is a web page" in found[6][2]
    assert "images/gone.png does not exist" in found[7][2]
    assert catalogue.broken_by_category == {"Fruit": 3, "(unknown)": 1, "Tools": 1}
    assert catalogue.rows_read == 8 == len(catalogue) + len(catalogue.quarantined)


def test_without_the_image_check_a_broken_image_stays(folder):
    write(folder, {"item_id": "a", "image": "images/gone.png"})
    assert item_ids(folder, check_images=False) == ["a"]
    with pytest.raises(
        CatalogueError, match=r"no usable row \(1 read\)\n  row 1: image images/gone\.png does not exist"
    ):
        load_catalogue(folder)


def test_the_pixel_limit_is_the_callers(folder):
    write(folder, {"item_id": "a", "image": picture(folder, "a.png")}, {"item_id": "b"})
    assert item_ids(folder, max_image_pixels=64) == ["a", "b"]
    assert item_ids(folder, max_image_pixels=63) == ["b"]
    assert item_ids(folder, max_image_pixels=64) == ["a", "b"]


def test_a_repaired_image_is_used_and_a_damaged_one_noticed(folder):
    write(folder, {"item_id": "a", "image": "images/a.png"}, {"item_id": "b"})
    assert item_ids(folder) == ["b"]
    picture(folder, "a.png")
    assert item_ids(folder) == ["a", "b"]
    (folder / "images" / "a.png").write_bytes(b"")
    assert item_ids(folder) == ["b"]


def test_an_unreadable_image_is_set_aside_and_not_remembered(folder, monkeypatch):
    name = picture(folder, "a.png")
    write(folder, {"item_id": "a", "image": name}, {"item_id": "b"})
    original = Path.open

    def refuse(self, *args, **kwargs):
        if self.name == "a.png":
            raise PermissionError(13, "Permission denied")
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert item_ids(folder) == ["b"]
    assert item_ids(folder) == ["a", "b"]


# --- nothing lost, whatever comes

CELL = st.one_of(
    st.none(), st.text(max_size=4), st.integers(-3, 3), st.floats(), st.booleans(), st.lists(st.text(), max_size=2)
)
ROW = st.fixed_dictionaries(
    {"item_id": CELL, "category": st.one_of(st.just("Fruit"), CELL), "title": CELL, "image": st.none(), "extra": CELL}
)
LINE = st.one_of(ROW.map(json.dumps), st.text(max_size=6).map(lambda t: " ".join(t.split())))


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(LINE, max_size=8))
def test_every_row_read_is_either_an_item_or_in_quarantine(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("catalogue")
    first = json.dumps({"item_id": "first", "category": "Fruit", "title": "Apple", "image": None})
    (folder / "items.jsonl").write_text("\n".join([first, *lines]), encoding="utf-8", errors="replace")
    os.environ["GRPO_MMPC_CACHE"] = str(folder / "cache")
    catalogue = load_catalogue(folder)
    assert catalogue.rows_read == 1 + sum(bool(line.strip()) for line in lines)
    assert catalogue.rows_read == len(catalogue.items) + len(catalogue.quarantined)
    assert len(set(catalogue.items["item_id"][:])) == len(catalogue)
    assert sum(catalogue.broken_by_category.values()) == len(catalogue.quarantined)
    assert all(q.reason for q in catalogue.quarantined)


def test_a_quarantine_file_holds_every_row(tmp_path):
    rows = [
        Quarantined(file="items.csv", row=3, item_id="é", reason="broken"),
        Quarantined(file="items.csv", row=4, item_id=None, reason="also broken"),
    ]
    path = tmp_path / "run" / "quarantine.jsonl"
    write_quarantine(path, rows)
    assert json.loads(path.read_text("utf-8").splitlines()[0]) == {
        "file": "items.csv",
        "row": 3,
        "item_id": "é",
        "reason": "broken",
    }
    assert read_quarantine(path) == rows


# --- the cache


def test_an_edited_file_is_read_again_even_if_size_and_time_stay(folder):
    write(folder, {"item_id": "a"})
    file = folder / "items.jsonl"
    before = file.stat()
    assert item_ids(folder) == ["a"]
    write(folder, {"item_id": "b"})
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert item_ids(folder) == ["b"]


def test_an_image_is_decoded_once_until_it_changes(folder, monkeypatch):
    write(
        folder, {"item_id": "a", "image": picture(folder, "a.png")}, {"item_id": "b", "image": picture(folder, "b.png")}
    )
    load_catalogue(folder)
    from grpo_mmpc.catalogue import signatures

    described = []
    original = signatures.describe_image

    def spy(file, **options):
        described.append(file.name)
        return original(file, **options)

    monkeypatch.setattr(signatures, "describe_image", spy)
    load_catalogue(folder)
    assert described == []
    picture(folder, "b.png", "blue")
    os.utime(folder / "images" / "b.png", ns=(1, 1))
    load_catalogue(folder)
    assert described == ["b.png"]


def test_nothing_is_written_into_the_users_folder_or_the_datasets_cache(folder, own_cache, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(own_cache.parent / "hf"))
    write(folder, {"item_id": "a", "image": picture(folder, "a.png")}, {"item_id": "b", "image": "images/gone.png"})
    before = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    catalogue = load_catalogue(folder)
    catalogue.items.map(lambda row: {"length": len(row["title"])})
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == before
    assert not (own_cache.parent / "hf").exists()


def test_items_stay_on_disk_and_travel_to_other_processes(folder, own_cache):
    write(folder, *({"item_id": str(i)} for i in range(5)))
    catalogue = load_catalogue(folder)
    (cached,) = catalogue.items.cache_files
    assert Path(cached["filename"]).is_relative_to(own_cache)
    assert pickle.loads(pickle.dumps(catalogue.items))["item_id"][:] == list("01234")


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_one(folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "blocked").touch()
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "blocked"))
    write(folder, {"item_id": "a", "image": picture(folder, "a.png")})
    assert item_ids(folder) == ["a"]
    assert "using a temporary folder. Set GRPO_MMPC_CACHE" in caplog.text


def test_a_damaged_image_cache_is_rebuilt(folder, own_cache):
    write(folder, {"item_id": "a", "image": picture(folder, "a.png")})
    load_catalogue(folder)
    (store,) = (own_cache / "images").iterdir()
    store.write_bytes(b"broken")
    assert item_ids(folder) == ["a"]
    assert store.read_bytes()[:4] == b"ARRO"


def test_entries_unused_for_a_month_make_room(folder, own_cache):
    write(folder, {"item_id": "a"})
    load_catalogue(folder)
    (old,) = (own_cache / "catalogues").iterdir()
    os.utime(old, (1e9, 1e9))
    write(folder, {"item_id": "b"})
    load_catalogue(folder)
    assert not old.exists()


# --- the fingerprint


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(folder, tmp_path):
    write(
        folder,
        {"item_id": "a", "image": picture(folder, "a.png")},
        {"item_id": "b", "image": picture(folder, "b.png", "blue")},
    )
    first = load_catalogue(folder).fingerprint
    folder.rename(tmp_path / "elsewhere")
    assert load_catalogue(tmp_path / "elsewhere").fingerprint == first


def test_the_fingerprint_changes_with_a_row_and_with_an_image(folder):
    rows = [
        {"item_id": "a", "image": picture(folder, "a.png")},
        {"item_id": "b", "image": picture(folder, "b.png", "blue")},
    ]
    write(folder, *rows)
    fingerprints = [load_catalogue(folder).fingerprint]
    picture(folder, "a.png", "blue")
    picture(folder, "b.png", "red")  # the two pictures exchanged
    for name in ("a.png", "b.png"):
        os.utime(folder / "images" / name, ns=(2, 2))
    fingerprints.append(load_catalogue(folder).fingerprint)
    write(folder, rows[0], {**rows[1], "title": "Pear"})
    fingerprints.append(load_catalogue(folder).fingerprint)
    assert len(set(fingerprints)) == 3


# --- size


def test_thousands_of_images_load_in_seconds(folder):
    generator = np.random.default_rng(0)
    rows = []
    for i in range(400):
        image = Image.fromarray(generator.integers(0, 255, (84, 84, 3), dtype=np.uint8))
        image.save(folder / "images" / f"{i}.png")
        rows.append({"item_id": str(i), "image": f"images/{i}.png"})
    write(folder, *rows)
    import time

    load_catalogue(folder, check_images=False)
    started = time.process_time()
    assert len(load_catalogue(folder)) == 400
    # 3,600 images in under 5 s is under 1.4 ms each; processor time, so that a busy machine does
    # not matter.
    assert time.process_time() - started < 400 * 5 / 3600 + 0.5


def test_a_column_is_read_at_positions_in_their_order(tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "items.csv").write_text("item_id,category,title,image\n" + "".join(f"{i},F,t{i},\n" for i in "abc"))
    assert load_catalogue(folder).column("title", [2, 0]) == ["tc", "ta"]
