"""``grpo-mmpc recbench`` as people type it."""

import json

import pytest

from grpo_mmpc.cli import main
from tests.recbench.catalogues import OFFLINE, small_catalogue

FAST = [*OFFLINE, "seeds=[0]", "fills=[zeros,no_missing,completed]"]


@pytest.fixture
def catalogue(tmp_path):
    return small_catalogue(tmp_path / "catalogue", categories=("Bags",)).folder


def run(catalogue, tmp_path, *words):
    return main(
        ["recbench", *FAST, "--catalogue", str(catalogue), "--out", str(tmp_path / "out"), "--parallel", "1", *words]
    )


def test_a_table_files_and_a_page_come_out_and_a_second_call_trains_nothing(catalogue, tmp_path, capsys):
    assert run(catalogue, tmp_path) == 0
    said = capsys.readouterr().out
    assert "VBPR, 100% of titles missing" in said
    assert "true titles (ceiling)" in said
    assert "next: measure a completed catalogue" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Does completing the catalogue help recommendation?" in page
    assert run(catalogue, tmp_path) == 0
    assert "2 recommenders to train and test, 2 of them finished earlier" in capsys.readouterr().out


def test_two_completed_catalogues_of_one_name_must_be_named(catalogue, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name / "done").mkdir(parents=True)
    words = [word for name in ("a", "b") for word in ("--completed", str(tmp_path / name / "done"))]
    assert run(catalogue, tmp_path, *words) == 2
    assert "two catalogues are called done; name them: --completed NAME=DIR" in capsys.readouterr().err


def test_options_of_the_other_engine_are_refused(catalogue, tmp_path, capsys):
    assert run(catalogue, tmp_path, "--gpus-per-cell", "1") == 2
    assert "--gpus-per-cell and --ray-address are for --engine ray" in capsys.readouterr().err
    assert run(catalogue, tmp_path, "--engine", "ray", "training.device=cuda") == 2
    assert "on Ray --gpus-per-cell decides" in capsys.readouterr().err


def test_brands_cannot_cluster_a_catalogue_without_brands(catalogue, tmp_path, capsys):
    path = catalogue / "items.jsonl"
    path.write_text(path.read_text().replace('"brand"', '"maker"'))
    assert run(catalogue, tmp_path, "clustered_by=brand") == 2
    assert "no item of the catalogue has a brand among its attributes" in capsys.readouterr().err


def test_an_encoder_without_a_model_takes_the_published_one_and_a_misspelt_key_is_named(catalogue, tmp_path, capsys):
    assert run(catalogue, tmp_path, "encoders.text.modell=nano:minilm") == 2
    assert "did you mean 'model'?" in capsys.readouterr().err


def test_the_original_catalogue_is_refused_as_a_completion(catalogue, tmp_path, capsys):
    assert run(catalogue, tmp_path, "--completed", f"mine={catalogue}") == 2
    assert "original" in capsys.readouterr().err


def test_a_catalogue_without_interactions_is_told_what_it_lacks(catalogue, tmp_path, capsys):
    (catalogue / "interactions.jsonl").unlink()
    assert run(catalogue, tmp_path) == 2
    error = capsys.readouterr().err
    assert "has no interactions.parquet, .jsonl or .csv" in error
    assert "user_id, item_id, timestamp, rating" in error


def test_an_unknown_category_names_the_nearest(catalogue, tmp_path, capsys):
    assert run(catalogue, tmp_path, "categories=[Bag]") == 2
    assert "did you mean Bags?" in capsys.readouterr().err


def test_users_with_one_interaction_leave_the_others_alone(catalogue, tmp_path, capsys):
    path = catalogue / "interactions.jsonl"
    extra = {"user_id": "once", "item_id": "Bags-00", "timestamp": 5, "rating": 5}
    unknown = {"user_id": "once", "item_id": "nowhere", "timestamp": 6, "rating": 5}
    path.write_text(path.read_text() + json.dumps(extra) + "\n" + json.dumps(unknown) + "\n")
    assert run(catalogue, tmp_path) == 0
    said = capsys.readouterr().out
    assert "interactions.jsonl: 98 rows, 1 of items that the catalogue does not have, 0 broken" in said
    assert "1 users or items with too few" in said
    assert "Bags: 12 users, 32 items" in said
    counts = json.loads((tmp_path / "out" / "results.json").read_text())["categories"]["Bags"]["interactions"]
    assert (counts["unknown_items"], counts["below_core"]) == (1, 1)
