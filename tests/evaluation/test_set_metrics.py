"""Metrics of whole sets of items, which have one value and no interval."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_mmpc.evaluation.comparison import compare_evaluations
from grpo_mmpc.metrics.table import METRICS
from tests.evaluation.compared import NAN, compare, write_evaluation


def set_metric(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A metric that has one value per set of items and none per item."""
    metric_type = METRICS["bleu"].__class__
    fields = {field: getattr(METRICS["bleu"], field) for field in metric_type.__dataclass_fields__}
    changes = {"name": name, "of_set": lambda inputs: 0.0, "worst": 1.0, "best": 0.0}
    monkeypatch.setitem(METRICS, name, metric_type(**fields | changes))


def write_set_values(folder: Path, *, overall: float | None, categories: Mapping[str, float | None]) -> None:
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    values = {"metrics": {"bleu": {"mean": 0.1}, "distance": {"mean": overall}}}
    values["categories"] = {name: {"distance": {"mean": value}} for name, value in categories.items()}
    path.write_text(json.dumps(summary | {"tasks": {"image_to_text": values}}))


def test_a_metric_of_whole_sets_has_values_but_no_interval_and_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_metric(monkeypatch, "distance")
    scores = {"bleu": [0.1] * 12, "distance": [NAN] * 12}
    folders = [write_evaluation(tmp_path / name, scores=scores, categories=list("AB") * 6) for name in ("a", "b")]
    write_set_values(folders[0], overall=30.0, categories={"A": 20.0, "B": 40.0})
    write_set_values(folders[1], overall=24.0, categories={"A": 18.0, "B": None})
    task = compare(*folders)
    cell = task["metrics"]["distance"]
    assert [cell[key] for key in ("before", "after", "delta", "n_scored")] == [30.0, 24.0, -6.0, 12]
    assert [cell[key] for key in ("ci95", "p", "p_holm", "effect_size")] == [None] * 4
    assert (cell["verdict"], cell["higher_is_better"]) == ("no interval", False)
    assert task["macro"]["distance"]["delta"] == -6.0
    assert task["categories"]["A"]["distance"]["delta"] == -2.0
    assert (task["categories"]["B"]["distance"]["delta"], task["categories"]["B"]["distance"]["verdict"]) == (
        None,
        "unscored",
    )
    assert task["families"]["metrics"] == 1


def test_values_of_different_sets_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_metric(monkeypatch, "distance")
    first = write_evaluation(tmp_path / "a", scores={"bleu": [0.1] * 8, "distance": [NAN] * 8})
    second = write_evaluation(tmp_path / "b", scores={"bleu": [0.1] * 9, "distance": [NAN] * 9})
    for folder in (first, second):
        write_set_values(folder, overall=30.0, categories={"Toys": 30.0})
    assert compare(first, second)["metrics"]["distance"]["verdict"] == "unscored"


@pytest.mark.parametrize("left_out", ["nothing", "unpaired", "held back"])
def test_kid_is_the_one_of_the_compared_items_or_unscored(tmp_path: Path, left_out: str) -> None:
    # Values per item depend on the answers to all items of the category: eight of nine do not
    # average to a KID.
    count = 9 if left_out == "unpaired" else 8
    options: Any = {"task": "text_to_image"}
    scores = {name: np.linspace(0.1, 0.9, 8) for name in ("kid", "mse")}
    first = write_evaluation(tmp_path / "a", scores=scores, **options)
    more = {name: np.linspace(0.0, 0.5, count) for name in scores}
    second = write_evaluation(tmp_path / "b", scores=more, **options)
    held_back = (lambda item_id: item_id == "item-0") if left_out == "held back" else None
    [content] = compare_evaluations(first, [second], resamples=200, held_back=held_back)
    task = content.to_json()["tasks"]["text_to_image"]
    for cells in (task["metrics"], task["macro"], task["categories"]["Toys"]):
        assert (cells["kid"]["verdict"] == "unscored") == (left_out != "nothing")
        assert (cells["kid"]["before"] is None) == (left_out != "nothing")
        assert cells["mse"]["before"] is not None
    assert task["metrics"]["kid"]["n_scored"] == (8 if left_out == "nothing" else 0)
