"""A masked catalogue: what is masked is gone, all else is as it was, and it can be completed."""

import json
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.catalogue import load_catalogue, validate_catalogue
from grpo_mmpc.cli import main
from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.masked_catalogue import MASK, named_items, write_masked_catalogue
from grpo_mmpc.recbench.masks import Missingness, missing_items


def lacking(modality="text", *, rate=0.5, clustered_by=None, salt="s") -> Missingness:
    return Missingness(rate=rate, modality=modality, clustered_by=clustered_by, salt=salt)


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Forty items of two brands; item 0 has no image, item 1 no title, item 2 no brand."""
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "catalogue"
    (folder / "images").mkdir(parents=True)
    rows = []
    for n in range(40):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(folder / "images" / f"{n}.png")
        rows.append(
            {
                "item_id": f"i{n:02d}",
                "category": "Fruit" if n % 2 else "Tools",
                "title": None if n == 1 else f"Acme thing {n}",
                "description": f"The Acme thing {n} in words",
                "image": None if n == 0 else f"images/{n}.png",
                "attributes": {"color": "red"} if n == 2 else {"brand": f"brand-{n % 10}", "color": "red"},
                "price": n / 4,
                "titles": [f"Acme gadget {n}"],
            }
        )
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "interactions.jsonl").write_text(
        '{"user_id": "u", "item_id": "i03", "timestamp": 1600000000000, "rating": 5}\n'
    )
    return folder


def test_masked_titles_go_with_everything_that_would_tell_them_and_all_else_stays(folder, tmp_path):
    done = write_masked_catalogue(load_catalogue(folder), tmp_path / "out", lacking("text"))
    before, after = rows_of(folder), rows_of(tmp_path / "out")
    named = missing_items([row["item_id"] for row in before], missingness=lacking("text"), groups=None)
    masked = 0
    for row, gappy, is_named in zip(before, after, named, strict=True):
        if is_named and row["title"] is not None and row["image"] is not None:
            masked += 1
            assert gappy == row | dict.fromkeys(["title", "description", "attributes", "titles"])
            assert "Acme" not in json.dumps(gappy) and "brand-" not in json.dumps(gappy)
        else:
            assert gappy == row
    assert done.masked == masked > 0
    assert sorted(p.name for p in (tmp_path / "out" / "images").iterdir()) == sorted(f"{n}.png" for n in range(1, 40))


def test_masked_images_are_not_in_the_folder_and_titles_stay(folder, tmp_path):
    done = write_masked_catalogue(load_catalogue(folder), tmp_path / "out", lacking("image"))
    after = rows_of(tmp_path / "out")
    assert [row["title"] for row in after] == [row["title"] for row in rows_of(folder)]
    assert [row["description"] for row in after] == [row["description"] for row in rows_of(folder)]
    kept = {row["image"] for row in after if row["image"] is not None}
    assert {f"images/{p.name}" for p in (tmp_path / "out" / "images").iterdir()} == kept
    assert len(kept) == 39 - done.masked


@pytest.mark.parametrize(("modality", "placed"), [("text", ["3.png", "3b.png"]), ("image", [])])
def test_further_images_stay_where_the_title_is_masked_and_go_with_a_masked_image(folder, tmp_path, modality, placed):
    Image.new("RGB", (8, 8), "blue").save(folder / "images/3b.png")
    row = rows_of(folder)[3] | {"images": ["images/3.png", "images/3b.png", "images/lost.png"]}
    (folder / "items.jsonl").write_text(json.dumps(row) + "\n")
    write_masked_catalogue(load_catalogue(folder), tmp_path / "out", lacking(modality, rate=1.0))
    [masked] = load_catalogue(tmp_path / "out").records()
    assert list(masked.images) == (["images/3b.png", "images/lost.png"] if placed else [])
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == placed


def test_an_item_keeps_the_only_thing_it_has(folder, tmp_path):
    """Item 0 has a title alone, item 1 an image alone: the first is spared, the second lacks it."""
    done = write_masked_catalogue(load_catalogue(folder), tmp_path / "out", lacking("text", rate=1.0))
    assert (done.items, done.masked, done.already_missing, done.spared) == (40, 38, 1, 1)
    assert [row["title"] for row in rows_of(tmp_path / "out")] == ["Acme thing 0"] + [None] * 39


def test_the_mask_is_written_down_with_the_catalogue_it_is_of(folder, tmp_path):
    catalogue = load_catalogue(folder)
    write_masked_catalogue(catalogue, tmp_path / "out", lacking("image", rate=1.0, salt="x"))
    assert json.loads((tmp_path / "out" / MASK).read_text()) == {
        "rate": 1.0,
        "modality": "image",
        "clustered_by": None,
        "salt": "x",
        "catalogue": catalogue.fingerprint,
        "items": 40,
        "masked": 38,
        "already_missing": 1,
        "spared": 1,
    }


def test_clustered_by_brand_the_attribute_decides_and_by_category_the_category(folder):
    catalogue = load_catalogue(folder)
    by_brand = named_items(catalogue, lacking(clustered_by="brand"))
    brands = {n: by_brand[n] for n in range(10) if n != 2}
    assert all(by_brand[n] == brands[n % 10] for n in range(40) if n % 10 != 2)
    assert set(brands.values()) == {True, False}
    by_category = named_items(catalogue, lacking(clustered_by="category"))
    assert len(set(by_category[::2].tolist())) == len(set(by_category[1::2].tolist())) == 1


@pytest.mark.parametrize("modality", ["text", "image"])
def test_the_result_validates_and_its_interactions_come_along(folder, tmp_path, modality):
    done = write_masked_catalogue(load_catalogue(folder), tmp_path / "out", lacking(modality))
    assert main(["data", "validate", str(tmp_path / "out"), "--strict"]) == 0
    report = validate_catalogue(tmp_path / "out")
    assert sum(getattr(c, f"missing_{'title' if modality == 'text' else 'image'}") for c in report.categories) == (
        done.masked + 1
    )
    assert report.interactions is not None and report.interactions.items == 1


@pytest.mark.parametrize("modality", ["text", "image"])
def test_the_command_complete_fills_what_was_masked(small_catalogue, tmp_path, modality, capsys):
    whole = tmp_path / "whole"
    (whole / "images").mkdir(parents=True)
    rows = rows_of(small_catalogue)[:9]
    (whole / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (whole / row["image"]).write_bytes((small_catalogue / row["image"]).read_bytes())
    done = write_masked_catalogue(load_catalogue(whole), tmp_path / "gappy", lacking(modality))
    command = ["complete", str(tmp_path / "gappy"), "--out", str(tmp_path / "out"), "--base"]
    assert main([*command, "--recipe", "recipes/nano.yaml"]) == 0
    field = "title" if modality == "text" else "image"
    assert f"filled {done.masked} {field}s; 0 items could not be filled" in capsys.readouterr().out
    assert sum(row["completed"] == field for row in rows_of(tmp_path / "out")) == done.masked > 0


def test_both_modalities_at_once_are_refused_because_nothing_would_be_left(folder, tmp_path):
    with pytest.raises(RecBenchError, match='write one catalogue with modality "text" and another with "image"'):
        write_masked_catalogue(load_catalogue(folder), tmp_path / "out", lacking("both"))


def test_a_mask_without_items_is_refused(folder, tmp_path):
    with pytest.raises(
        RecBenchError, match=r"no title of .* is masked at rate 0\.0 .*raise the rate or take another salt"
    ):
        write_masked_catalogue(load_catalogue(folder), tmp_path / "out", lacking(rate=0.0))
    assert not (tmp_path / "out").exists()


def test_neither_the_catalogue_nor_a_folder_with_something_in_it_is_written_into(folder, tmp_path):
    catalogue = load_catalogue(folder)
    with pytest.raises(RecBenchError, match="is the catalogue itself"):
        write_masked_catalogue(catalogue, folder, lacking())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(RecBenchError, match="not an empty folder"):
        write_masked_catalogue(catalogue, tmp_path / "mine", lacking())


def test_killed_while_writing_nothing_is_left_behind(folder, tmp_path, monkeypatch):
    from grpo_mmpc.recbench import masked_catalogue

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    catalogue = load_catalogue(folder)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(masked_catalogue, "place_images", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_masked_catalogue(catalogue, tmp_path / "out", lacking())
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_says_what_was_taken_away_and_what_to_do_next(folder, tmp_path, capsys):
    assert main(["data", "mask", str(folder), "--out", str(tmp_path / "masked")]) == 0
    said = capsys.readouterr().out
    # Item 1 had no title, item 0 has nothing but its title.
    assert "40 items, 38 without their title" in said
    assert "1 had none before; 1 kept theirs because they have nothing else." in said
    assert f"next: grpo-mmpc complete {tmp_path / 'masked'} --checkpoint DIR --out COMPLETED" in said


def test_the_same_command_again_says_that_all_is_done_and_another_mask_is_refused(folder, tmp_path, capsys):
    command = ["data", "mask", str(folder), "--out", str(tmp_path / "masked")]
    assert main(command) == 0
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "masked").rglob("*")}
    assert main(command) == 0
    assert "nothing to do: it was written earlier" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "masked").rglob("*")} == times
    assert main([*command, "--rate", "0.5"]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
