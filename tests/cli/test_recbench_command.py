"""``grpo-mmpc recbench`` as people type it."""

import json

import pytest

from grpo_mmpc.cli import main
from grpo_mmpc.recbench.folder import only_one
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
    assert said.endswith(f"next: grpo-mmpc data mask {catalogue} --out MASKED\n")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Does completing the catalogue help recommendation?" in page
    assert main(["report", str(tmp_path / "out")]) == 2
    assert f"is a benchmark's folder; its page is there: {tmp_path / 'out/report.html'}" in capsys.readouterr().err
    assert run(catalogue, tmp_path) == 0
    assert (
        "all 2 recommenders were trained and tested earlier: nothing to do but to compare them"
        in capsys.readouterr().out
    )


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


def test_a_catalogue_without_interactions_is_told_what_it_lacks_with_all_else(catalogue, tmp_path, monkeypatch, capsys):
    (catalogue / "interactions.jsonl").unlink()
    monkeypatch.setattr("grpo_mmpc.catalogue.load_catalogue", lambda *_, **__: pytest.fail("was read before"))
    assert run(catalogue, tmp_path, "--gpus-per-cell", "1") == 2
    error = capsys.readouterr().err
    assert "2 problems" in error and "--gpus-per-cell and --ray-address are for --engine ray" in error
    assert f"--catalogue: {catalogue} has no interactions.parquet, .jsonl or .csv" in error
    assert "user_id, item_id, timestamp, rating" in error


def test_an_unknown_category_names_the_nearest(catalogue, tmp_path, capsys):
    assert run(catalogue, tmp_path, "categories=[Bag]") == 2
    assert "did you mean 'Bags'?" in capsys.readouterr().err


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


def test_everything_that_cannot_be_is_refused_at_once_before_the_catalogue_is_read(tmp_path, capsys):
    words = ["fills=[zeros]", "training.device=cuda", "encoders.text.device=cudda", "recommenders=[vbpr,mmgcn]"]
    words += ["--completed", "nowhere", "--gpus-per-cell", "-1", "modalities=[text]", "missing=[text]"]
    assert run(tmp_path / "no catalogue", tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert "the configuration has 7 problems" in error
    assert f"--catalogue: {tmp_path / 'no catalogue'} is not a folder" in error
    for problem in (
        "--completed nowhere: nowhere is not a folder",
        "--completed has no effect, for fills is [zeros]",
        "--gpus-per-cell is -1",
        "are for --engine ray",
        "training.device: device 'cuda' was asked for",
        "encoders.text: device 'cudda' is not a torch device",
    ):
        assert problem in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["fills=[completed]"],
            "nothing to compare vbpr on: fills is [completed], and no completed catalogue is there",
        ),
        (
            ["recommenders=[mmgcn]", "modalities=[text]", "fills=[id_only,drop_modality]"],
            "fills is [id_only, drop_modality], and mmgcn cannot be trained without any features; or name other fills",
        ),
        (["mode=paper", "salt=x", "interactions.min_rating=3"], "salt, interactions.min_rating would have no effect"),
    ],
)
def test_options_that_change_nothing_or_leave_nothing_are_refused(tmp_path, capsys, words, said):
    assert run(tmp_path / "no catalogue", tmp_path, *words) == 2
    assert said in capsys.readouterr().err


def test_a_second_command_on_a_folder_says_who_holds_it(catalogue, tmp_path, capsys):
    with only_one(tmp_path / "out"):
        assert run(catalogue, tmp_path) == 2
    assert "is in use by another recbench (process" in capsys.readouterr().err
    assert run(catalogue, tmp_path) == 0


def test_a_failed_start_is_not_in_the_way_and_another_s_folder_is_left_alone(catalogue, tmp_path, capsys):
    assert run(catalogue, tmp_path, "categories=[Bag]") == 2
    assert run(catalogue, tmp_path) == 0
    before = sorted(catalogue.iterdir())
    assert main(["recbench", *FAST, "--catalogue", str(catalogue), "--out", str(catalogue)]) == 2
    assert "holds images, which is not of recbench; name an empty or new folder" in capsys.readouterr().err
    assert sorted(catalogue.iterdir()) == before


def test_what_a_killed_command_leaves_is_repaired_by_the_same_command(catalogue, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(catalogue, tmp_path) == 0
    whole = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in (".npy", ".npz", ".parquet", ".csv")}
    (torn,) = list((out / "cells").glob("*.parquet"))[:1]
    torn.write_bytes(torn.read_bytes()[:-9])
    (out / "results.json").write_text("{")
    for place in ("cells", "features"):
        (out / place / ".x.0f.partial").write_text("half")
    assert run(catalogue, tmp_path) == 0
    said = capsys.readouterr().out
    assert f"{torn}: missing or damaged" in said and "it is run again" in said
    assert "2 recommenders to train and test, 1 of them finished earlier" in said
    assert not list(out.rglob(".*.partial"))
    assert {path: path.read_bytes() for path in whole} == whole


def test_broken_rows_items_and_images_are_counted_and_stop_nothing(catalogue, tmp_path, capsys):
    (catalogue / "images" / "Bags-03.png").write_bytes(b"no image")
    for name in ("items", "interactions"):
        with (catalogue / f"{name}.jsonl").open("a") as file:
            file.write("no JSON\n")
    assert run(catalogue, tmp_path) == 0
    said = capsys.readouterr().out
    assert "items.jsonl: 2 of 33 rows are broken and left out, row 4 among them: image images/Bags-03.png" in said
    assert "97 rows, 3 of items that the catalogue does not have, 1 broken" in said
    assert "! 2 of the catalogue's 33 rows are broken and left out." in said
    assert "! 1 row of the interactions file cannot be read: left out." in said
