"""Differences of two evaluations and their intervals, in cells worked by hand."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.comparison import compare_evaluations
from grpo_mmpc.metrics.table import METRICS
from tests.evaluation.compared import NAN, compare, write_evaluation


def corpus_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus-level metric one can do by hand: sum of the first statistic over the second."""
    metric_type = METRICS["corpus_bleu"].__class__
    fields = {name: getattr(METRICS["corpus_bleu"], name) for name in metric_type.__dataclass_fields__}
    ratio = metric_type(**fields | {"name": "ratio", "aggregate": lambda sums: sums[..., 0] / sums[..., 1]})
    monkeypatch.setitem(METRICS, "ratio", ratio)


def test_variants_of_one_product_are_resampled_as_wholes(tmp_path: Path) -> None:
    # 24 items that are 8 products of 3 variants, each with one difference: as 8 items, 2 / 2**8.
    values = np.repeat(np.linspace(0.1, 0.2, 8), 3)
    folders = [
        write_evaluation(tmp_path / name, scores={"bleu": scores})
        for name, scores in (("a", [0.0] * 24), ("b", values))
    ]
    apart = compare(*folders)
    assert (apart.get("groups"), "design_effect" in apart["metrics"]["bleu"]) == (None, False)
    for folder in folders:
        table = pq.read_table(folder / "samples.parquet")
        table = table.append_column("group", pa.array([f"product {number // 3}" for number in range(24)]))
        table = table.append_column("attributes", pa.array([json.dumps({"brand": "ab"[n // 12]}) for n in range(24)]))
        pq.write_table(table, folder / "samples.parquet")
    task = compare(*folders)
    cell = task["metrics"]["bleu"]
    assert (task["n"], task["groups"], cell["n_scored"]) == (24, 8, 24)
    assert cell["design_effect"] == pytest.approx(3.0)
    assert cell["p"] >= 2 / 256 > apart["metrics"]["bleu"]["p"]
    by_brand = compare(*folders, group_by="brand")
    assert (by_brand["groups"], by_brand["metrics"]["bleu"]["verdict"]) == (2, "too few items")
    with pytest.raises(EvaluationError, match="no item has the attribute 'seller' to group by"):
        compare(*folders, group_by="seller")


def test_interval_of_one_changed_item_in_six_is_binomial(tmp_path: Path) -> None:
    # Differences 0,0,0,0,0,.6: a resampled mean is .1 * Binomial(6, 1/6), with P(k<=3) = .9913 and
    # P(k<=4) = .9993. The expanded tail at six items is .0024, so the ends are k=0 (P = .335) and
    # k=4: 0 and .4.
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 6})
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.0] * 5 + [0.6]})
    cell = compare(before, after, resamples=20_000)["metrics"]["bleu"]
    assert cell["delta"] == 0.1
    assert cell["ci95"] == [0.0, 0.4]
    assert cell["verdict"] == "too few changed"


@pytest.mark.parametrize(("change", "verdict"), [(0.25, "better"), (-0.25, "worse"), (0.0, "too few changed")])
def test_differences_without_variance_have_an_interval_of_one_point(
    tmp_path: Path, change: float, verdict: str
) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.3, 0.5] * 20})
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.3 + change, 0.5 + change] * 20})
    cell = compare(before, after)["metrics"]["bleu"]
    assert cell["ci95"] == [change, change]
    assert cell["verdict"] == verdict


def test_a_metric_where_lower_is_better_gets_better_by_falling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lower = METRICS["bleu"].__class__
    fields = {name: getattr(METRICS["bleu"], name) for name in lower.__dataclass_fields__}
    monkeypatch.setitem(METRICS, "distance", lower(**fields | {"name": "distance", "worst": 1.0, "best": 0.0}))
    before = write_evaluation(tmp_path / "a", scores={"distance": [0.5] * 8})
    after = write_evaluation(tmp_path / "b", scores={"distance": [0.25] * 8})
    cell = compare(before, after)["metrics"]["distance"]
    assert (cell["delta"], cell["verdict"], cell["higher_is_better"]) == (-0.25, "better", False)


def test_one_item_has_a_difference_but_no_interval(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.25]})
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.75]})
    task = compare(before, after)
    cell = task["metrics"]["bleu"]
    assert (cell["delta"], cell["ci95"], cell["verdict"]) == (0.5, None, "too few items")
    assert task["macro"]["bleu"]["ci95"] is None


def test_a_metric_that_is_never_scored_is_null_not_zero(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bertscore_f1": [NAN] * 8})
    after = write_evaluation(tmp_path / "b", scores={"bertscore_f1": [0.5] * 8})
    task = compare(before, after)
    cell = task["metrics"]["bertscore_f1"]
    assert [cell[key] for key in ("before", "after", "delta", "ci95")] == [None] * 4
    assert (cell["n"], cell["n_scored"], cell["verdict"]) == (8, 0, "unscored")
    assert task["macro"]["bertscore_f1"]["verdict"] == "unscored"


def test_corpus_metrics_aggregate_summed_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus_ratio(monkeypatch)
    before = write_evaluation(
        tmp_path / "a", scores={"bleu": [0.0] * 3}, statistics={"ratio": [[1, 4], [3, 4], [9, 9]]}
    )
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.0] * 3}, statistics={"ratio": [[2, 4], [6, 8], None]})
    cell = compare(before, after)["metrics"]["ratio"]
    # The third pair is unscored. Before (1+3)/(4+4) = .5; after (2+6)/(4+8) = 2/3, not the mean of
    # ratios .625.
    assert cell["before"] == 0.5
    assert cell["after"] == pytest.approx(2 / 3)
    assert (cell["n"], cell["n_scored"]) == (3, 2)


def test_corpus_metrics_resample_items_before_aggregating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One of six items has a numerator of 1.2, all have a denominator of 2: a resample that draws it
    # k times has the ratio 1.2 * k / 12 = .1 * k with k of Binomial(6, 1/6), so the ends are 0 and
    # .4 as in the binomial test above.
    corpus_ratio(monkeypatch)
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 6}, statistics={"ratio": [[0.0, 2.0]] * 6})
    statistics = {"ratio": [[0.0, 2.0]] * 5 + [[1.2, 2.0]]}
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.0] * 6}, statistics=statistics)
    cell = compare(before, after, resamples=20_000)["metrics"]["ratio"]
    assert cell["ci95"] == [0.0, 0.4]
    # Of 64 flips half show +.1 and half -.1: all are as far from 0 as what was observed.
    assert (cell["delta"], cell["p"], cell["effect_size"]) == (0.1, 1.0, None)


def test_identical_evaluations_show_exactly_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus_ratio(monkeypatch)
    generator = np.random.default_rng(0)
    scores = {"bleu": generator.random(30).tolist(), "chrf": generator.random(30).tolist()}
    statistics = {"ratio": generator.random((30, 2)).tolist()}
    before = write_evaluation(tmp_path / "a", scores=scores, statistics=statistics)
    after = write_evaluation(tmp_path / "b", scores=scores, statistics=statistics, checkpoint="final")
    for cell in compare(before, after)["metrics"].values():
        assert (cell["delta"], cell["ci95"], cell["verdict"]) == (0.0, [0.0, 0.0], "too few changed")
        assert (cell["p"], cell["p_holm"], cell["effect_size"]) == (1.0, 1.0, None)


@pytest.mark.parametrize(
    ("task", "name", "largest"),
    [
        ("image_to_text", "token_f1", 1.0),  # from 0 to 1
        ("image_to_text", "attribute_recall_color", 1.0),
        ("image_to_text", "embedding_cosine", 2.0),  # from -1 to 1
        ("text_to_image", "kid", None),
    ],
)
def test_intervals_end_where_differences_of_the_metric_do(
    tmp_path: Path, task: str, name: str, largest: float | None
) -> None:
    # Per category seven small changes and one of 1. A resample without that one has a tiny spread,
    # so that the mean of 0.126 lies dozens of its standard errors away: by itself the studentised
    # interval reaches beyond 2.
    options: Any = {"task": task, "categories": ["A"] * 8 + ["B"] * 8}
    changes = [0.001 * number for number in range(7)] + [1.0]
    first = write_evaluation(tmp_path / "a", scores={name: [0.0] * 16}, **options)
    second = write_evaluation(tmp_path / "b", scores={name: changes * 2}, **options)
    found = [compare_evaluations(*pair)[0].to_json()["tasks"][task] for pair in ((first, [second]), (second, [first]))]
    for task_cells, sign in zip(found, (1, -1), strict=True):
        for cells in (task_cells["metrics"], task_cells["macro"], task_cells["categories"]["A"]):
            far = max(sign * end for end in cells[name]["ci95"])
            assert far == largest if largest else far > 2.0
        far = max(sign * end for end in task_cells["categories"]["A"][name]["ci95_corrected"])
        assert far == largest if largest else far > 2.0


def test_paper_mode_cuts_no_intervals_because_it_cuts_no_values(tmp_path: Path) -> None:
    changes = [0.001 * number for number in range(7)] + [1.0]
    folders = [
        write_evaluation(tmp_path / str(side), scores={"jaccard": values})
        for side, values in ((0, [0.0] * 8), (1, changes))
    ]
    for folder in folders:
        path = folder / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"mode": "paper"}))
    assert compare(*folders)["metrics"]["jaccard"]["ci95"][1] > 1.0


def test_macro_is_the_unweighted_mean_over_categories(tmp_path: Path) -> None:
    categories = ["Toys"] * 12 + ["Office"] * 6
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 18}, categories=categories)
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.5] * 12 + [0.2] * 6}, categories=categories)
    task = compare(before, after)
    # Over items (12 * .5 + 6 * .2) / 18 = .4; over categories (.5 + .2) / 2 = .35.
    assert task["metrics"]["bleu"]["delta"] == 0.4
    assert task["macro"]["bleu"]["delta"] == 0.35
    assert task["macro"]["bleu"]["ci95"] == [0.35, 0.35]
    assert (task["macro"]["bleu"]["categories"], task["macro"]["bleu"]["verdict"]) == (2, "better")
    assert list(task["categories"]) == ["Office", "Toys"]
    assert task["categories"]["Toys"]["bleu"]["delta"] == 0.5


def test_a_category_does_not_depend_on_the_others(tmp_path: Path) -> None:
    values = np.random.default_rng(2).random(40)
    both = ["A"] * 20 + ["B"] * 20
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 40}, categories=both)
    after = write_evaluation(tmp_path / "b", scores={"bleu": values}, categories=both)
    alone_before = write_evaluation(tmp_path / "c", scores={"bleu": [0.0] * 20}, categories=["A"] * 20)
    alone_after = write_evaluation(tmp_path / "d", scores={"bleu": values[:20]}, categories=["A"] * 20)
    assert (
        compare(before, after)["categories"]["A"]["bleu"]["ci95"]
        == compare(alone_before, alone_after)["categories"]["A"]["bleu"]["ci95"]
    )


def test_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    values = np.random.default_rng(3).random(30)
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 30})
    after = write_evaluation(tmp_path / "b", scores={"bleu": values})
    assert compare(before, after, seed=5) == compare(before, after, seed=5)
    assert compare(before, after, seed=5) != compare(before, after, seed=6)


def test_memory_grows_with_the_scores_alone(tmp_path: Path) -> None:
    """Ten times the items take the room of scores and identifiers, not of tables made from them."""
    names = [name for name, metric in METRICS.items() if "text" in metric.targets and metric.statistics is None]
    generator = np.random.default_rng(0)

    def peak(count: int) -> int:
        sides = [
            write_evaluation(
                tmp_path / f"{side}-{count}",
                scores={name: generator.uniform(size=count) for name in names},
                categories=[f"category {number % 3}" for number in range(count)],
            )
            for side in ("a", "b")
        ]
        tracemalloc.start()
        compare(*sides, resamples=1000)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(20)  # imports
    size_of_scores = (20_000 - 2_000) * len(names) * 2 * 8
    assert peak(20_000) - peak(2_000) < 1.3 * size_of_scores + 8e6  # and of tables of 5,000 units
