"""Planned cells, what is read of them, and what files say of methods that are left out."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench import results as results_module
from grpo_mmpc.recbench.cells import RecommenderCell
from grpo_mmpc.recbench.filled_features import Coverage, FilledFeatures
from grpo_mmpc.recbench.plan import Group, Method, plan
from grpo_mmpc.recbench.records import TrainingSettings
from grpo_mmpc.recbench.results import METRICS, SHOWN, collect, write_results
from tests.recbench.catalogues import settings_for
from tests.recbench.report.fake_results import with_second

USERS = 12
TRAINING = TrainingSettings(max_epochs=1, patience=1, batch_size=1, learning_rate=0.1)


def cell_of(text, *, seed, category="A", recommender="vbpr"):
    return RecommenderCell(
        category=category,
        recommender=recommender,
        split="s",
        text=text,
        image=None,
        seed=seed,
        mode="corrected",
        grid=({},),
        training=TRAINING,
    )


def method_of(name, text, *, seeds=(0, 1), categories=("A", "B"), coverage=None):
    cells = {seed: {category: cell_of(text, seed=seed, category=category) for category in categories} for seed in seeds}
    return Method(name=name, cells=cells, coverage=coverage or {})


def finish(folder, cell, *, level, device="cpu"):
    """A result as a training leaves it."""
    (folder / "cells").mkdir(exist_ok=True)
    scores = {metric: level + np.linspace(-0.1, 0.1, USERS, dtype=np.float32) for metric in METRICS}
    columns = {"user_id": [str(user) for user in range(USERS)], **scores}
    pq.write_table(pa.table(columns), folder / "cells" / f"{cell.key}.parquet")
    said = {"parameters": {"reg": 0.1}, "tried": [{}] * 9, "means": dict.fromkeys(METRICS, level), "device": device}
    said["users"] = USERS
    (folder / "cells" / f"{cell.key}.json").write_text(json.dumps(said))


def group_of(*methods, **changes):
    return Group(**({"recommender": "vbpr", "missing": "text", "rate": 1.0, "methods": list(methods)} | changes))


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def test_of_a_cell_only_the_metrics_that_are_compared_are_read(folder, monkeypatch):
    method = method_of("zeros", "z")
    for cell in method.every_cell:
        finish(folder, cell, level=0.2)
    asked = []
    original = results_module.read_cell

    def reading(folder, key, *, columns=None):
        said, scores = original(folder, key, columns=columns)
        asked.append(set(scores))
        return said, scores

    monkeypatch.setattr(results_module, "read_cell", reading)
    [result] = collect(folder, [group_of(method)], {}, resamples=100)
    # Who the users of a category are is the same in all its cells, and read once.
    assert asked == [{*SHOWN, "user_id"}] * 2 + [set(SHOWN)] * 2
    assert result["levels"]["zeros"]["map@5"] == pytest.approx(0.2)
    assert result["parameters"] == {"zeros": [{"reg": 0.1, "cells": 4}]}


def test_a_method_that_is_left_out_has_no_values_in_the_files_and_the_others_are_compared(folder):
    methods = [method_of("zeros", "z"), method_of("mean", "m"), method_of("id_only", "i")]
    first = methods[0].cells[0]["A"]
    for method, level in zip(methods, (0.9, 0.2, 0.1), strict=True):
        for cell in method.every_cell:
            if cell.key != first.key:
                finish(folder, cell, level=level)
    [result] = collect(folder, [group_of(*methods)], {first.key: "diverged"}, resamples=100)
    assert result["left_out"] == {"zeros": "no result for A with seed 0"}
    assert result["metrics"]["recall@20"]["reference"] == "id_only"
    assert result["levels"]["zeros"] == {}
    write_results(folder, {"groups": [result]})
    table = folder / "results.csv"
    rows = [row for row in csv.DictReader(table.open()) if row["metric"] == "recall@20"]
    assert [(row["method"], row["value"]) for row in rows] == [("zeros", ""), ("mean", "0.2"), ("id_only", "0.1")]
    assert json.loads((folder / "results.json").read_text())["groups"][0]["left_out"] == result["left_out"]


def test_levels_are_means_over_what_is_compared(folder):
    """A category that one method alone has would make it better or worse by that alone."""
    methods = [method_of("zeros", "z"), method_of("mean", "m"), method_of("id_only", "i")]
    for method in methods:
        for cell in method.every_cell:
            if cell.category == "A" or method.name == "id_only":
                finish(folder, cell, level=0.2 if cell.category == "A" else 0.8)
    [result] = collect(folder, [group_of(*methods)], {}, resamples=100)
    assert list(result["dropped"]) == ["B"] and not result["left_out"]
    assert result["levels"]["id_only"]["recall@20"] == pytest.approx(0.2)
    assert result["metrics"]["recall@20"]["methods"]["id_only"]["value"] == pytest.approx(0.2)


def test_where_nothing_can_be_compared_every_method_is_named_with_the_reason(folder):
    methods = [method_of("zeros", "z"), method_of("mean", "m")]
    finish(folder, methods[0].cells[0]["A"], level=0.2)
    finish(folder, methods[1].cells[1]["B"], level=0.2)
    [result] = collect(folder, [group_of(*methods)], {}, resamples=100)
    assert not result["metrics"] and set(result["left_out"]) == {"zeros", "mean"}


def test_methods_of_the_same_cells_are_known_by_their_keys(folder):
    methods = [method_of("zeros", "z"), method_of("mean", "z"), method_of("id_only", "i")]
    for method in methods:
        for cell in method.every_cell:
            finish(folder, cell, level=0.2)
    [result] = collect(folder, [group_of(*methods)], {}, resamples=100)
    methods = result["metrics"]["recall@20"]["methods"]
    said = {name: (one["same_as"], one["verdict"]) for name, one in methods.items()}
    # id_only has the same scores, but was trained by itself.
    assert said == {"zeros": (None, ""), "mean": ("zeros", "same"), "id_only": (None, "too few changed")}


def test_recovery_is_given_of_what_fills_gaps_and_of_nothing_else(folder):
    filled = {"text": Coverage(masked=9, covered=9, reasons={})}
    methods = [method_of("zeros", "z", coverage=filled), method_of("mean", "m", coverage=filled)]
    methods += [method_of(name, name) for name in ("no_missing", "id_only", "drop_modality", "most_popular")]
    for method, level in zip(methods, (0.2, 0.3, 0.4, 0.1, 0.3, 0.1), strict=True):
        for cell in method.every_cell:
            finish(folder, cell, level=level)
    [result] = collect(folder, [group_of(*methods)], {}, resamples=100)
    fills = result["metrics"]["recall@20"]["methods"]
    assert fills["no_missing"]["verdict"] == "better"
    assert [name for name, one in fills.items() if one["recovery"] is not None] == ["mean"]


def test_what_no_rate_changes_is_tested_once_for_all_rates(folder):
    methods = [method_of("id_only", "i"), method_of("no_missing", "t")]
    for method, gain in zip(methods, (0.0, 0.01), strict=True):
        for cell in method.every_cell:
            finish(folder, cell, level=0.2 + gain * (5 + cell.seed))
    [alone] = collect(folder, [group_of(*methods)], {}, resamples=100)
    both = collect(folder, [group_of(*methods, rate=rate) for rate in (0.5, 1.0)], {}, resamples=100)
    expected = alone["metrics"]["recall@20"]["methods"]["no_missing"]["p_holm"]
    assert 0 < expected < 0.5
    assert [one["metrics"]["recall@20"]["methods"]["no_missing"]["p_holm"] for one in both] == [expected, expected]


def test_results_say_on_what_kinds_of_devices_their_cells_ran(folder):
    method = method_of("zeros", "z")
    for cell, device in zip(method.every_cell, ("cuda:0", "cpu", "cuda:1", "cpu"), strict=True):
        finish(folder, cell, level=0.2, device=device)
    results = collect(folder, [group_of(method)], {}, resamples=100)
    write_results(folder, {"groups": results})
    assert json.loads((folder / "results.json").read_text())["groups"][0]["devices"] == ["cpu", "cuda"]


def finished_completions(folder):
    """Zeros, and two completions, the second better."""
    methods = [method_of("zeros", "z"), method_of("completed:b", "b"), method_of("completed:a", "a")]
    for method, level in zip(methods, (0.1, 0.2, 0.4), strict=True):
        for cell in method.every_cell:
            finish(folder, cell, level=level + 0.01 * cell.seed)
    return methods


def test_completions_are_compared_with_the_one_that_was_named_first(folder):
    results = collect(folder, [group_of(*finished_completions(folder))], {}, resamples=100)
    write_results(folder, {"groups": results})
    [group] = json.loads((folder / "results.json").read_text())["groups"]
    for metric in SHOWN:
        written = group["metrics"][metric]
        assert written["first_completion"] == "completed:b"
        [(name, one)] = written["against_first_completion"].items()
        assert (name, one["difference"], one["verdict"]) == ("completed:a", pytest.approx(0.2), "better")
        assert one.keys() == {"difference", "difference_ci95", "p_holm", "verdict"}
    rows = {row["method"]: row for row in csv.DictReader((folder / "results.csv").open()) if row["metric"] == SHOWN[0]}
    assert [rows["completed:a"][name] for name in ("first_completion", "to_first", "to_first_verdict")] == [
        *("completed:b", "0.2", "better"),
    ]
    assert rows["completed:b"]["first_completion"] == rows["zeros"]["to_first"] == ""


def test_users_of_several_categories_are_told_by_their_names(folder):
    # In every cell of A and B the same twelve, as ``finish`` writes them.
    [result] = collect(folder, [group_of(*finished_completions(folder))], {}, resamples=100)
    assert result["metrics"]["recall@20"]["users"] == USERS


class Told:
    """Stands for ``Filling``: what was asked for."""

    def __init__(self):
        self.asked = []

    def whole(self, *, without=()):
        text = None if without else "truth.npy"
        return FilledFeatures(files={"A": {"text": text, "image": None}})

    def filled(self, fill, **asked):
        self.asked.append(fill)
        return FilledFeatures(files={"A": {"text": f"{fill}.npy", "image": None}})


def planned(filling, *overrides, completions=()):
    settings = settings_for(*overrides)
    return plan(settings, SimpleNamespace(), filling, completions, splits={"A": "s"}, show=lambda done, total: None)


def test_recommenders_without_features_are_one_group_whatever_the_rates_and_nothing_is_filled():
    filling = Told()
    [group] = planned(filling, "recommenders=[bpr,most_popular]", "rates=[0.2,0.5]", "missing=[text,both]")
    assert (group.recommender, group.missing, group.rate) == ("", "", 0.0)
    assert [method.name for method in group.methods] == ["bpr", "most_popular"]
    assert not filling.asked


def test_vbpr_told_nothing_is_bpr_which_is_trained_and_tested_once(folder):
    [group] = planned(Told(), "recommenders=[vbpr,bpr]", "fills=[zeros,id_only]", "seeds=[0,1]")
    cells = {cell.key: cell for cell in group.cells}
    assert [(cell.recommender, cell.text, cell.seed) for cell in cells.values()] == [
        *(("vbpr", "zeros.npy", seed) for seed in (0, 1)),
        *(("bpr", None, seed) for seed in (0, 1)),
    ]
    for cell in cells.values():
        finish(folder, cell, level=0.2 if cell.text else 0.1 + 0.01 * cell.seed)
    [result] = collect(folder, [group], {}, resamples=100)
    fills = result["metrics"]["recall@20"]["methods"]
    assert {name: one["same_as"] for name, one in fills.items()} == {"zeros": None, "id_only": None, "bpr": "id_only"}
    # Two metrics are corrected for, not two metrics of two methods.
    assert fills["bpr"]["p_holm"] == fills["id_only"]["p_holm"]


@pytest.mark.parametrize("recommenders", ["[vbpr]", "[vbpr,most_popular]"])
def test_completed_alone_without_a_completed_catalogue_stops_before_anything_is_filled(recommenders):
    filling = Told()
    with pytest.raises(
        RecBenchError, match=r"nothing to compare vbpr on: fills is \[completed\].*give one with --completed"
    ):
        planned(filling, f"recommenders={recommenders}", "fills=[completed]")
    assert not filling.asked


def test_a_recommender_that_needs_features_stops_when_no_fill_gives_it_any():
    with pytest.raises(RecBenchError, match=r"nothing to compare mmgcn on.*fills is \[id_only\]"):
        planned(Told(), "recommenders=[vbpr,mmgcn]", "fills=[id_only]")
    [group] = planned(Told(), "recommenders=[mmgcn]", "fills=[id_only,zeros]")
    assert [method.name for method in group.methods] == ["zeros"]


def test_the_results_that_tests_of_the_report_make_up_have_the_keys_of_those_that_are_written(folder):
    [written] = collect(folder, [group_of(*finished_completions(folder))], {}, resamples=100)
    [fake] = with_second()["groups"]
    assert fake.keys() == written.keys()
    assert fake["metrics"].keys() == written["metrics"].keys()
    for metric, compared in fake["metrics"].items():
        others = written["metrics"][metric]
        assert compared.keys() == others.keys()
        for name in ("methods", "against_first_completion"):
            assert {*map(frozenset, compared[name].values())} == {*map(frozenset, others[name].values())}


def test_an_interval_of_a_level_ends_where_levels_do(folder):
    method = method_of("zeros", "z", categories=("A",))
    for cell, level in zip(method.every_cell, (0.0, 0.9), strict=True):
        finish(folder, cell, level=level)
    [result] = collect(folder, [group_of(method)], {}, resamples=100)
    one = result["metrics"]["recall@20"]["methods"]["zeros"]
    assert one["ci95"] == one["by_category"]["A"]["ci95"] == [0.0, 1.0]
