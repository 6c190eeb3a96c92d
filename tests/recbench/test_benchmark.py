"""The whole benchmark on small catalogues: plans, interruptions, results."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.benchmark import run_benchmark
from grpo_mmpc.recbench.cells import load_split, read_cell, save_features, save_split
from grpo_mmpc.recbench.completions import encoded_completion
from grpo_mmpc.recbench.data import read_benchmark_data
from grpo_mmpc.recbench.engines import run_local, run_ray
from grpo_mmpc.recbench.masks import masks
from grpo_mmpc.recbench.results import read_results
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.manifest import now
from tests.recbench.catalogues import settings_for, small_catalogue

ensure_importable()


def quiet(text: str) -> None:
    """Nothing is printed."""


def here(folder, cells, show):
    return run_local(folder, cells, parallel=1, device="cpu", show=show)


def benchmark(settings, catalogue, folder: Path, *, run_cells=here, complete=lambda data: [], say=quiet):
    return run_benchmark(
        settings,
        catalogue,
        read_benchmark_data(settings, catalogue, say=say),
        complete=complete,
        run_cells=run_cells,
        work=folder,
        out=folder,
        about={"command": "test", "catalogue": "small"},
        say=say,
    )


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return small_catalogue(tmp_path_factory.mktemp("small") / "catalogue")


def test_results_say_when_the_benchmark_finished(catalogue, tmp_path):
    before = now()
    benchmark(settings_for("fills=[zeros]"), catalogue, tmp_path)
    assert before <= read_results(tmp_path)["finished"] <= now()


def test_every_fill_recommender_category_and_seed_is_one_cell_and_what_is_equal_is_trained_once(catalogue, tmp_path):
    settings = settings_for("rates=[0.5,1.0]", "fills=[no_missing,zeros,mean]", "recommenders=[vbpr,most_popular]")
    outcome = benchmark(settings, catalogue, tmp_path)
    # Per category and seed: the ceiling once for both rates; zeros and mean at each rate, but at
    # 100 % nothing is left to take a mean of, so that both are zeros; and the floor once. 2 x 2 x
    # (1 + 2 + 1 + 1).
    assert read_results(tmp_path)["cells"] == 20
    assert not outcome["failures"]
    assert [(group["recommender"], group["missing"], group["rate"]) for group in outcome["groups"]] == [
        ("vbpr", "text", 0.5),
        ("vbpr", "text", 1.0),
    ]
    mean = outcome["groups"][1]["coverage"]["mean"]["text"]
    assert (mean["masked"], mean["covered"]) == (64, 0)


def test_finished_cells_are_not_run_again(catalogue, tmp_path):
    settings = settings_for("fills=[no_missing,zeros]")
    runs: list[int] = []

    def stopped_in_the_middle(folder, cells, show):
        runs.append(len(cells))
        run_local(folder, cells[:3], parallel=1, device="cpu", show=show)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark(settings, catalogue, tmp_path, run_cells=stopped_in_the_middle)

    def counted(folder, cells, show):
        runs.append(len(cells))
        return here(folder, cells, show)

    first = benchmark(settings, catalogue, tmp_path, run_cells=counted)
    second = benchmark(settings, catalogue, tmp_path, run_cells=counted)
    assert runs == [8, 5]
    assert first["groups"][0]["levels"] == second["groups"][0]["levels"]


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(partial(run_local, parallel=2, device="cpu"), id="processes"),
        pytest.param(partial(run_ray, address=None, parallel=2, gpus_per_cell=0.0), id="ray", marks=pytest.mark.slow),
    ],
)
def test_the_same_cells_give_the_same_scores_in_one_process_and_in_several(catalogue, tmp_path, engine):
    settings = settings_for("fills=[no_missing]", "recommenders=[vbpr,bpr]")
    scores = []
    for folder, run in ((tmp_path / "here", here), (tmp_path / "several", engine)):
        benchmark(
            settings, catalogue, folder, run_cells=lambda folder, cells, show, run=run: run(folder, cells, show=show)
        )
        keys = sorted(path.stem for path in (folder / "cells").glob("*.json"))
        scores.append({key: read_cell(folder, key)[1] for key in keys})
    one, several = scores
    assert len(one) == 8
    assert several.keys() == one.keys()
    for key, columns in one.items():
        for column, values in columns.items():
            np.testing.assert_array_equal(several[key][column], values)


def test_a_cell_that_fails_is_reported_and_the_others_are_compared(catalogue, tmp_path, monkeypatch):
    settings = settings_for("fills=[zeros,mean,no_missing]", "rates=[0.5]")

    def failing(folder, cells, show):
        failures = here(folder, cells[1:], show)
        return failures | {cells[0].key: "training left the finite numbers in epoch 1"}

    outcome = benchmark(settings, catalogue, tmp_path, run_cells=failing)
    [group] = outcome["groups"]
    assert list(group["failures"]) == ["zeros"]
    assert "training left the finite numbers in epoch 1" in group["failures"]["zeros"]
    # Without zeros there is no reference for it, but the other fills still have levels.
    assert set(group["levels"]["mean"]) == {
        f"{m}@{k}" for m in ("recall", "ndcg", "precision", "map") for k in (5, 10, 20, 50)
    }


def test_results_are_written_for_machines_and_people(catalogue, tmp_path):
    benchmark(settings_for("fills=[no_missing,zeros]"), catalogue, tmp_path)
    results = read_results(tmp_path)
    assert results["suite"] == "recbench"
    lead = results["groups"][0]["metrics"]["recall@20"]
    assert lead["users"] == 24
    assert set(lead["methods"]) == {"zeros", "no_missing"}
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert rows[0].startswith("recommender,missing,rate,method,metric,value,low,high,difference")
    assert len(rows) == 1 + 2 * 16


def test_a_category_with_three_items_is_left_out_with_the_reason(tmp_path):
    source = small_catalogue(tmp_path / "source", categories=("Bags",))
    path = tmp_path / "source" / "items.jsonl"
    tiny = [{"item_id": f"Tiny-{i}", "category": "Tiny", "title": f"tiny thing {i}"} for i in range(3)]
    path.write_text(path.read_text() + "".join(json.dumps(item) + "\n" for item in tiny))
    with (tmp_path / "source" / "interactions.jsonl").open("a") as file:
        for i in range(3):
            file.write(json.dumps({"user_id": "u", "item_id": f"Tiny-{i}", "timestamp": i, "rating": 5}) + "\n")
    said: list[str] = []
    from grpo_mmpc.catalogue import load_catalogue

    catalogue = load_catalogue(source.folder)
    benchmark(settings_for("fills=[zeros]"), catalogue, tmp_path / "out", say=said.append)
    assert list(read_results(tmp_path / "out")["excluded_categories"]) == ["Tiny"]
    assert any(line.startswith("left out Tiny:") for line in said)


def test_where_title_and_image_are_missing_completions_are_left_out_and_that_is_said(catalogue, tmp_path):
    settings = settings_for("missing=[text,both]", "fills=[zeros,completed]", "seeds=[0]")

    def complete(data):
        titles = [f"some {item_id}" for item_id in data.item_ids]
        return [encoded_completion(settings, "x", values={"text": titles}, lacking={})]

    said: list[str] = []
    outcome = benchmark(settings, catalogue, tmp_path, complete=complete, say=said.append)
    assert [(group["missing"], sorted(group["coverage"])) for group in outcome["groups"]] == [
        ("text", ["completed:x", "zeros"]),
        ("both", ["zeros"]),
    ]
    assert any(line.startswith("missing both: completions are left out") for line in said)


def test_a_rate_takes_the_same_items_from_every_modality_and_more_at_higher_rates(catalogue):
    settings = settings_for()
    data = read_benchmark_data(settings, catalogue, say=quiet)
    low = masks(settings, data, missing="both", rate=0.2)
    high = masks(settings, data, missing="text", rate=0.5)
    np.testing.assert_array_equal(low["text"], low["image"])
    assert set(high) == {"text"}
    assert (high["text"] | ~low["text"]).all()
    assert 0 < low["text"].sum() < high["text"].sum() < len(data.item_ids)


def test_training_pairs_of_all_categories_keep_users_and_items_apart(catalogue):
    data = read_benchmark_data(settings_for(), catalogue, say=quiet)
    pairs = data.train()
    first, second = data.categories
    assert len(pairs) == len(first.split.train) + len(second.split.train)
    assert pairs.users.max() == first.split.num_users + second.split.num_users - 1
    assert {data.item_ids[i].split("-")[0] for i in pairs.items[pairs.users >= first.split.num_users]} == {"Mugs"}


def test_a_split_comes_back_from_disk_as_it_was(catalogue, tmp_path):
    split = read_benchmark_data(settings_for(), catalogue, say=quiet).categories[0].split
    again = load_split(tmp_path, save_split(tmp_path, split))
    assert again.item_ids == split.item_ids and again.user_ids == split.user_ids
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(again, part).items, getattr(split, part).items)
        np.testing.assert_array_equal(getattr(again, part).users, getattr(split, part).users)


def test_features_with_nan_are_refused_by_row(tmp_path):
    values = np.ones((3, 2), dtype=np.float32)
    values[1, 0] = np.nan
    with pytest.raises(RecBenchError, match="features of 1 items are not finite, the first at row 1"):
        save_features(tmp_path, values)
