"""grpo-mmpc data: exit codes, files written, and the next command to try."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.cli.data import add_parser
from grpo_mmpc.errors import CatalogueError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "my catalogue"
    (folder / "images").mkdir(parents=True)
    Image.radial_gradient("L").save(folder / "images" / "a.png")
    (folder / "items.csv").write_text("item_id,category,title,description,image\na,Fruit,Apple,,images/a.png\n")
    return folder


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser(prog="grpo-mmpc")
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["data", *map(str, arguments)])
    return args.func(args)


def break_a_row(folder: Path) -> None:
    with (folder / "items.csv").open("a") as out:
        out.write("b,Fruit,Pear,,../../etc/passwd\n")


def test_a_sound_catalogue_passes_even_strictly(folder, capsys):
    assert run("validate", folder, "--strict") == 0
    assert capsys.readouterr().out.endswith(
        f"1 usable item of 1 row; nothing is broken.\n"
        f"next: grpo-mmpc train recipes/nano.yaml 'data.catalogue={folder}'\n"
    )


def test_a_catalogue_of_gaps_alone_is_completed_next(folder, capsys):
    """Nothing of it can be trained on: no item has both a title and an image."""
    (folder / "items.csv").write_text("item_id,category,title,image\na,Fruit,,images/a.png\nb,Fruit,Pear,\n")
    assert run("validate", folder) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"next: grpo-mmpc complete '{folder}' --out COMPLETED --checkpoint DIR\n")


def test_a_catalogue_with_missing_titles_is_completed_next_and_trained_on_before(folder, capsys):
    rows = ("a,Fruit,Apple,images/a.png", "b,Fruit,,images/a.png")
    (folder / "items.csv").write_text("\n".join(["item_id,category,title,image", *rows, ""]))
    assert run("validate", folder) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"to align a policy on it first: grpo-mmpc train recipes/nano.yaml 'data.catalogue={folder}'",
        f"next: grpo-mmpc complete '{folder}' --out COMPLETED --checkpoint DIR",
    ]


def test_a_broken_row_fails_only_the_strict_check(folder, capsys):
    break_a_row(folder)
    assert run("validate", folder) == 0
    assert run("validate", folder, "--strict") == 1
    assert "items.csv row 2 (b): image ../../etc/passwd lies outside" in " ".join(capsys.readouterr().out.split())


def test_a_catalogue_without_one_usable_row_fails_every_check_and_names_no_next_command(folder, capsys):
    (folder / "items.csv").write_text("item_id,category,title,description,image\nb,Fruit,,,../../etc/passwd\n")
    assert run("validate", folder) == 1
    said = capsys.readouterr().out
    assert said.endswith("No usable item: correct the rows above first.\n") and "next:" not in said


def test_the_json_names_every_broken_row(folder, tmp_path):
    for _ in range(30):
        break_a_row(folder)
    assert run("validate", folder, "--json", tmp_path / "out" / "report.json") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert [q["row"] for q in report["quarantined"]] == list(range(2, 32))
    assert report["is_broken"] is True
    assert report["categories"][0] == {
        "category": "Fruit",
        "items": 1,
        "missing_title": 0,
        "missing_description": 1,
        "missing_image": 0,
        "broken": 30,
    }


def test_an_unreadable_catalogue_is_left_to_the_dispatcher(tmp_path):
    with pytest.raises(CatalogueError, match="does not exist"):
        run("validate", tmp_path / "nowhere")


def test_amazon_metadata_becomes_a_catalogue_that_validates(tmp_path, capsys):
    source = tmp_path / "meta_All_Beauty.jsonl"
    record = {"title": "Soap", "main_category": "All Beauty", "images": [], "description": [], "parent_asin": "B1"}
    source.write_text(json.dumps(record) + "\n{broken\n")
    assert run("amazon", source, "--out", tmp_path / "out", "--max-items", "5") == 0
    text = capsys.readouterr().out
    assert "Items by category:\n  All_Beauty: 1\nRecords read: 2; items: 1; images: 0;" in text
    assert f"Records that could not become items: 1, all in {tmp_path / 'out' / 'skipped.jsonl'}" in text
    assert "Run again with --download-images" in text
    assert text.endswith(f"next: grpo-mmpc data validate {tmp_path / 'out'}\n")
    assert run("validate", tmp_path / "out", "--strict") == 0


def write_amazon_files(tmp_path: Path, *, reviewed: str) -> tuple[Path, Path]:
    """Metadata of B1, and a good and a broken review of a product."""
    metadata, reviews = tmp_path / "meta_All_Beauty.jsonl", tmp_path / "All_Beauty.jsonl"
    metadata.write_text(json.dumps({"title": "Soap", "main_category": "All Beauty", "parent_asin": "B1"}) + "\n")
    review = {"user_id": "AE1", "parent_asin": reviewed, "timestamp": 1588687728923, "rating": 4.0}
    reviews.write_text(json.dumps(review) + "\n" + json.dumps(review | {"user_id": None}) + "\n")
    return metadata, reviews


def test_amazon_reviews_become_interactions_of_the_items(tmp_path, capsys):
    metadata, reviews = write_amazon_files(tmp_path, reviewed="B1")
    assert run("amazon", metadata, "--out", tmp_path / "out", "--reviews", reviews) == 0
    assert (
        f"Reviews read: 2; written to {tmp_path / 'out' / 'interactions.parquet'}: 1; of products that are not in the "
        "catalogue: 0; broken: 1.\n  - All_Beauty.jsonl row 2: user_id is missing; remove the row or name the user\n"
    ) in capsys.readouterr().out
    assert run("validate", tmp_path / "out", "--strict") == 0
    assert "Interactions (interactions.parquet): 1 row, 1 user, 1 item" in capsys.readouterr().out


def test_reviews_of_other_products_are_counted_and_the_catalogue_stays_valid(tmp_path, capsys):
    metadata, reviews = write_amazon_files(tmp_path, reviewed="B9")
    assert run("amazon", metadata, "--out", tmp_path / "out", "--reviews", reviews) == 0
    said = capsys.readouterr().out
    assert "of products that are not in the catalogue: 1; broken: 1." in said
    assert "No review is of an item of this catalogue" in said
    assert run("validate", tmp_path / "out", "--strict") == 0


def test_a_mistyped_review_file_is_refused_before_any_item_is_converted(tmp_path):
    metadata, _ = write_amazon_files(tmp_path, reviewed="B1")
    with pytest.raises(CatalogueError, match="is no file of reviews"):
        run("amazon", metadata, "--out", tmp_path / "out", "--reviews", tmp_path / "nowhere.jsonl")
    assert not (tmp_path / "out").exists()


def test_the_nano_catalogue_is_written_and_validates(tmp_path, capsys):
    assert run("nano", "--out", tmp_path / "nano", "--num-items", "18", "--seed", "3") == 0
    assert capsys.readouterr().out.endswith(f"next: grpo-mmpc data validate {tmp_path / 'nano'}\n")
    assert run("validate", tmp_path / "nano", "--strict") == 0
    assert "18 usable items of 18 rows; nothing is broken." in capsys.readouterr().out


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_a_number_of_items_is_above_zero(tmp_path, number, capsys):
    with pytest.raises(SystemExit):
        run("nano", "--out", tmp_path, "--num-items", number)
    assert "--num-items" in capsys.readouterr().err


def test_the_module_loads_nothing_heavy():
    code = (
        "import sys, grpo_mmpc.cli.data; "
        "heavy = {'torch', 'datasets', 'pyarrow', 'numpy', 'PIL', 'sklearn', 'transformers'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
