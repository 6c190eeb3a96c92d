"""Cells: what their key depends on, what is left of one that fails, what damaged files lead to."""

import errno
import json
import resource
import signal
import threading
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench import training
from grpo_mmpc.recbench.cells import RecommenderCell, finished, read_cell, run_cell, save_features, save_split
from grpo_mmpc.recbench.records import TrainingSettings
from tests.recbench.worlds import taste_world


@pytest.fixture
def cell(tmp_path):
    split, features = taste_world(0, num_users=40, num_items=60, interactions_per_user=5)
    return RecommenderCell(
        category="A",
        recommender="vbpr",
        split=save_split(tmp_path, split),
        text=save_features(tmp_path, features.text),
        image=None,
        seed=0,
        mode="corrected",
        grid=({"reg": 0.01}, {"reg": 0.1}),
        training=TrainingSettings(max_epochs=2, patience=1, batch_size=64, learning_rate=1e-2),
    )


def test_every_part_of_a_cell_is_in_its_key(cell):
    others = {
        "category": "B",
        "recommender": "bpr",
        "split": "other.npz",
        "text": None,
        "image": "other.npy",
        "seed": 1,
        "mode": "paper",
        "grid": ({"reg": 0.5},),
        "training": replace(cell.training, patience=2),
    }
    assert set(others) == set(cell.__dataclass_fields__)
    keys = {replace(cell, **{name: value}).key for name, value in others.items()}
    assert len(keys | {cell.key}) == len(others) + 1


def test_the_best_grid_point_on_validation_is_tested_in_corrected_mode(cell, tmp_path):
    run_cell(tmp_path, cell)
    said, scores = read_cell(tmp_path, cell.key)
    best = max(said["tried"], key=lambda one: one["validation"])
    assert said["parameters"] == best["parameters"]
    assert said["means"]["recall@20"] == pytest.approx(np.mean(scores["recall@20"]), abs=1e-6)
    assert len(scores["user_id"]) == said["users"] == 40


def test_in_paper_mode_the_test_part_chooses_which_is_the_flaw(cell, tmp_path):
    paper = replace(cell, mode="paper")
    run_cell(tmp_path, paper)
    said, _ = read_cell(tmp_path, paper.key)
    assert said["test"] == max(one["test"] for one in said["tried"])


@pytest.mark.parametrize("mode", ["paper", "corrected"])
def test_in_paper_mode_freedom_trains_on_a_graph_in_which_items_without_features_are_nearest_which_is_the_flaw(
    cell, tmp_path, monkeypatch, mode
):
    _, features = taste_world(0, num_users=40, num_items=60, interactions_per_user=5)
    features.text[[5, 9]] = 0.0
    freedom = replace(
        cell, recommender="freedom", text=save_features(tmp_path, features.text), mode=mode, grid=({"knn": 2},)
    )
    fit, graphs = training.fit, []

    def watched(model, split, **options):
        graphs.append(model.item_graph.matrix.toarray())
        return fit(model, split, **options)

    monkeypatch.setattr(training, "fit", watched)
    run_cell(tmp_path, freedom)
    said, _ = read_cell(tmp_path, freedom.key)
    assert np.isfinite(said["test"])  # a loss that is not finite fails the cell
    others = np.delete(graphs[0], [5, 9], axis=0)
    assert (others[:, [5, 9]] > 0).all() == (mode == "paper")
    assert np.delete(others, [5, 9], axis=1).any() == (mode == "corrected")


def test_a_grid_point_that_diverges_is_recorded_and_the_others_decide(cell, tmp_path, monkeypatch):
    fit = training.fit

    def failing(model, split, **options):
        if not failing.called:
            failing.called = True
            raise RecBenchError("the loss is nan in epoch 1")
        return fit(model, split, **options)

    failing.called = False
    monkeypatch.setattr(training, "fit", failing)
    run_cell(tmp_path, cell)
    said, _ = read_cell(tmp_path, cell.key)
    assert said["tried"][0] == {"parameters": {"reg": 0.01}, "failed": "the loss is nan in epoch 1"}
    assert said["parameters"] == {"reg": 0.1}


def test_where_every_grid_point_diverges_the_cell_fails_with_the_reasons(cell, tmp_path, monkeypatch):
    def failing(*arguments, **options):
        raise RecBenchError("the loss is nan in epoch 1")

    monkeypatch.setattr(training, "fit", failing)
    with pytest.raises(RecBenchError, match=r"\{'reg': 0.01\}: the loss is nan in epoch 1; \{'reg': 0.1\}"):
        run_cell(tmp_path, cell)
    assert not finished(tmp_path, cell.key)


@pytest.mark.parametrize("size", [0, 100, 3000])
@pytest.mark.parametrize("kind", ["features", "splits"])
def test_a_damaged_input_is_named_and_written_again_by_whoever_has_its_content(cell, tmp_path, kind, size):
    path = tmp_path / kind / (cell.text if kind == "features" else cell.split)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with pytest.raises(RecBenchError, match=rf"{path.name}: missing or damaged"):
        run_cell(tmp_path, cell)
    split, features = taste_world(0, num_users=40, num_items=60, interactions_per_user=5)
    assert (save_split(tmp_path, split), save_features(tmp_path, features.text)) == (cell.split, cell.text)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", ["half a JSON", "another JSON", "no Parquet", "half a Parquet", "fewer users"])
def test_a_damaged_result_is_named_and_counts_as_not_there(cell, tmp_path, damage):
    run_cell(tmp_path, cell)
    path = tmp_path / "cells" / f"{cell.key}.json"
    scores = path.with_suffix(".parquet")
    said: list[str] = []
    assert finished(tmp_path, cell.key, say=said.append)
    if damage == "half a JSON":
        path.write_text(path.read_text()[:50])
    elif damage == "another JSON":
        path.write_text("{}")
    elif damage == "no Parquet":
        scores.unlink()
    elif damage == "half a Parquet":
        scores.write_bytes(scores.read_bytes()[: scores.stat().st_size // 2])
    else:
        pq.write_table(pq.read_table(scores).slice(1), scores)
    assert not finished(tmp_path, cell.key, say=said.append)
    assert len(said) == 1 and cell.key in said[0] and said[0].endswith("it is run again")
    run_cell(tmp_path, cell)
    assert finished(tmp_path, cell.key)


def test_only_the_columns_asked_for_are_read(cell, tmp_path):
    run_cell(tmp_path, cell)
    assert list(read_cell(tmp_path, cell.key, columns=["ndcg@20"])[1]) == ["ndcg@20"]


def test_many_writers_of_the_same_features_leave_one_whole_file(tmp_path):
    values = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)
    names, errors = [], []

    def save():
        try:
            names.append(save_features(tmp_path, values))
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=save) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(names)) == 1
    np.testing.assert_array_equal(np.load(tmp_path / "features" / names[0]), values)
    assert [path.name for path in (tmp_path / "features").iterdir()] == [names[0]]


def test_what_a_cell_says_is_json_that_a_person_can_read(cell, tmp_path):
    run_cell(tmp_path, cell)
    said = json.loads((tmp_path / "cells" / f"{cell.key}.json").read_text())
    assert said["cell"]["recommender"] == "vbpr"
    assert said["device"] == "cpu"
    assert set(said["means"]) == {f"{m}@{k}" for m in ("recall", "ndcg", "precision", "map") for k in (5, 10, 20, 50)}


@pytest.mark.parametrize("kind", ["features", "split"])
def test_a_full_disk_is_told_with_the_file_and_leaves_nothing(tmp_path, kind):
    split, features = taste_world(0, num_users=40, num_items=60, interactions_per_user=5)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # a write beyond it fails as on a full disk
    try:
        with pytest.raises(OSError) as raised:
            save_features(tmp_path, features.text) if kind == "features" else save_split(tmp_path, split)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.errno == errno.EFBIG
    assert str(tmp_path) in str(raised.value.filename)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
