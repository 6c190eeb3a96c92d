"""Paired comparison of two evaluations: pairing, hand-worked cells, refusals, files."""

import json
import math
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.comparison import compare_evaluations, write_comparison
from grpo_mmpc.evaluation.run_folder import RunFolder, checkpoint_order
from grpo_mmpc.evaluation.trained import trained_metrics
from grpo_mmpc.metrics.table import METRICS

NAN = math.nan


def write_evaluation(
    folder: Path,
    *,
    scores: Mapping[str, Sequence[float | None]],
    statistics: Mapping[str, Sequence[Sequence[float] | None]] | None = None,
    item_ids: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    task: str = "image_to_text",
    suite: str = "cqbench",
    version: str = "1",
    checkpoint: str = "base",
) -> Path:
    count = len(next(iter(scores.values())))
    columns: dict[str, Any] = {
        "item_id": item_ids or [f"item-{number}" for number in range(count)],
        "category": categories or ["Toys"] * count,
        "task": [task] * count,
    }
    columns |= {f"score/{name}": pa.array(values, pa.float64()) for name, values in scores.items()}
    columns |= {f"stat/{name}": pa.array(values, pa.list_(pa.float64())) for name, values in (statistics or {}).items()}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "samples.parquet")
    summary = {"suite": suite, "version": version, "checkpoint": checkpoint, "tasks": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def compare(before: Path, after: Path, **options: Any) -> Any:
    [comparison] = compare_evaluations(before, [after], **({"resamples": 4000} | options))
    return comparison.to_json()["tasks"]["image_to_text"]


def test_items_pair_by_identifier_not_by_row(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.1, 0.2, 0.9]}, item_ids=["x", "y", "gone"])
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.6, 0.3, 0.0, 0.0]}, item_ids=["y", "x", "new", "newer"])
    task = compare(before, after)
    # x: .1 -> .3, y: .2 -> .6; means .15 -> .45.
    cell = task["metrics"]["bleu"]
    assert (cell["before"], cell["after"], cell["delta"]) == (0.15, 0.45, 0.3)
    assert (cell["n"], cell["n_scored"]) == (2, 2)
    assert task["unpaired"] == {"before_only": 1, "after_only": 2}


def test_a_comparison_says_how_far_it_is(tmp_path: Path) -> None:
    before, after = (write_evaluation(tmp_path / name, scores={"bleu": [0.1] * 9}) for name in "ab")
    said: list[tuple[str, int, int]] = []
    compare(before, after, progress=lambda *what: said.append(what))
    work = "comparing 9 items of image_to_text, by category"
    assert said == [(work, 0, 2), (work, 1, 2)]  # before the one category, and before all of them


def test_a_pair_counts_only_when_both_sides_are_scored(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.1, NAN, 0.3, 0.4]})
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.2, 0.9, None, 0.6]})
    cell = compare(before, after)["metrics"]["bleu"]
    # Items 0 and 3 remain: (.1 + .4) / 2 = .25, (.2 + .6) / 2 = .4.
    assert (cell["before"], cell["after"], cell["delta"]) == (0.25, 0.4, 0.15)
    assert (cell["n"], cell["n_scored"]) == (4, 2)


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


def corpus_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus-level metric one can do by hand: sum of the first statistic over the second."""
    metric_type = METRICS["corpus_bleu"].__class__
    fields = {name: getattr(METRICS["corpus_bleu"], name) for name in metric_type.__dataclass_fields__}
    ratio = metric_type(**fields | {"name": "ratio", "aggregate": lambda sums: sums[..., 0] / sums[..., 1]})
    monkeypatch.setitem(METRICS, "ratio", ratio)


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


def test_p_values_are_corrected_for_all_metrics_of_the_task(tmp_path: Path) -> None:
    # Eight items, 2**8 flips. bleu: all differences .1, so only all-plus and all-minus are as
    # extreme: 2/256. chrf: seven of .1 and one of -.1, sum .6: one minus (8 flips) or none (1),
    # both ways: 18/256. rouge_l: unscored. Holm over two: 2 * 2/256 and 18/256.
    zeros = [0.0] * 8
    before = write_evaluation(tmp_path / "a", scores={"bleu": zeros, "chrf": zeros, "rouge_l": [NAN] * 8})
    scores = {"bleu": [0.1] * 8, "chrf": [0.1] * 7 + [-0.1], "rouge_l": [0.5] * 8}
    task = compare(before, write_evaluation(tmp_path / "b", scores=scores))
    bleu, chrf, rouge = (task["metrics"][name] for name in ("bleu", "chrf", "rouge_l"))
    assert (bleu["p"], bleu["p_holm"], bleu["verdict"]) == (2 / 256, 4 / 256, "better")
    assert (chrf["p"], chrf["p_holm"], chrf["verdict"]) == (18 / 256, 18 / 256, "no evidence")
    assert (rouge["p"], rouge["p_holm"], rouge["verdict"]) == (None, None, "unscored")
    # Mean .075, standard deviation (n - 1) of seven .1 and one -.1: sqrt((7 * .025**2 + .175**2) /
    # 7) = .0707.
    assert chrf["effect_size"] == pytest.approx(0.075 / 0.0707107, rel=1e-5)
    assert bleu["effect_size"] is None  # no spread
    assert task["families"] == {"metrics": 2, "macro": 2, "categories": 2}


def test_a_difference_that_is_clear_alone_can_be_lost_among_many_comparisons(tmp_path: Path) -> None:
    # Six items, all better: p = 2/64 = .03125. Alone that is a finding; with a second metric that
    # did not change it is corrected to .0625, and the interval above 0 no longer makes it one.
    after = {"bleu": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}
    alone = compare(
        write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 6}), write_evaluation(tmp_path / "b", scores=after)
    )
    both = compare(
        write_evaluation(tmp_path / "c", scores={"bleu": [0.0] * 6, "chrf": [0.0] * 6}),
        write_evaluation(tmp_path / "d", scores=after | {"chrf": [0.0] * 6}),
    )
    assert alone["metrics"]["bleu"]["verdict"] == "better"
    assert both["metrics"]["bleu"]["p_holm"] == 0.0625
    assert both["metrics"]["bleu"]["ci95"][0] > 0
    assert both["metrics"]["bleu"]["verdict"] == "no evidence"


def test_a_metric_with_too_few_items_has_no_p_value_and_no_part_in_the_correction(tmp_path: Path) -> None:
    few = [0.0] * 5 + [NAN] * 3
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 8, "chrf": few})
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.1] * 8, "chrf": [0.5] * 8})
    task = compare(before, after)
    assert (task["metrics"]["chrf"]["p"], task["metrics"]["chrf"]["verdict"]) == (None, "too few items")
    assert task["metrics"]["bleu"]["p_holm"] == 2 / 256
    assert task["families"]["metrics"] == 1


def test_categories_are_one_family_with_all_metrics(tmp_path: Path) -> None:
    # Two categories of eight items: bleu all up in A and B, chrf unchanged. Four comparisons, p =
    # 2/256 twice: 4 * 2/256 and 3 * 2/256, which may not be below the first.
    before = write_evaluation(
        tmp_path / "a", scores={"bleu": [0.0] * 16, "chrf": [0.0] * 16}, categories=list("AB") * 8
    )
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.1] * 16, "chrf": [0.0] * 16}, categories=list("AB") * 8)
    task = compare(before, after)
    assert task["families"]["categories"] == 4
    for category in ("A", "B"):
        assert task["categories"][category]["bleu"]["p_holm"] == 8 / 256
        assert task["categories"][category]["chrf"]["p_holm"] == 1.0


def test_progress_is_shown_before_each_category_and_before_all_items(tmp_path: Path) -> None:
    categories, shown = list("AB") * 8, []
    sides = [
        write_evaluation(tmp_path / name, scores={"bleu": [value] * 16}, categories=categories)
        for name, value in (("a", 0.0), ("b", 0.1))
    ]
    compare(*sides, resamples=200, progress=lambda *piece: shown.append(piece))
    assert shown == [("comparing 16 items of image_to_text, by category", done, 3) for done in range(3)]


def test_several_comparisons_with_one_evaluation_are_corrected_together(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 8})
    others = [
        write_evaluation(tmp_path / name, scores={"bleu": [0.1] * 8}, checkpoint=name) for name in ("b", "c", "d")
    ]
    contents = [one.to_json() for one in compare_evaluations(before, others, resamples=200)]
    assert [content["after"] for content in contents] == ["b", "c", "d"]
    for content in contents:
        cell = content["tasks"]["image_to_text"]["metrics"]["bleu"]
        assert (cell["p"], cell["p_holm"]) == (2 / 256, 6 / 256)


def test_p_values_of_many_items_do_not_depend_on_what_else_is_compared(tmp_path: Path) -> None:
    values = np.random.default_rng(4).normal(0.1, 1.0, 40)
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 40})
    after = write_evaluation(tmp_path / "b", scores={"bleu": values, "chrf": values})
    again = write_evaluation(tmp_path / "c", scores={"bleu": values})
    first, second = compare(before, after)["metrics"]["bleu"], compare(before, again)["metrics"]["bleu"]
    assert first == second


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


def test_modes_are_not_compared_with_each_other(tmp_path: Path) -> None:
    first, second = (write_evaluation(tmp_path / name, scores={"bleu": [0.1] * 8}) for name in ("a", "b"))
    for folder, mode in ((first, "corrected"), (second, "paper")):
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"mode": mode}))
    with pytest.raises(EvaluationError, match=r"scored in corrected mode, .* in paper mode"):
        compare(first, second)
    assert compare(second, second)["metrics"]["bleu"]["delta"] == 0.0


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


def test_category_intervals_are_also_given_corrected_for_their_number(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    categories = [name for name in ("A", "B", "C", "D", "E") for _ in range(20)]
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 100}, categories=categories)
    after = write_evaluation(tmp_path / "b", scores={"bleu": generator.normal(size=100)}, categories=categories)
    categories_at_95 = compare(before, after)["categories"]
    for cell in categories_at_95.values():
        (low, high), (wide_low, wide_high) = cell["bleu"]["ci95"], cell["bleu"]["ci95_corrected"]
        assert wide_low < low < high < wide_high
    # Five comparisons: the corrected interval is the 99% one.
    at_99 = compare(before, after, confidence=0.99)["categories"]
    for name, cell in categories_at_95.items():
        expected = at_99[name]["bleu"]["ci99"]
        assert cell["bleu"]["ci95_corrected"] == pytest.approx(expected)


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


@pytest.mark.parametrize(
    ("rewards", "marked"),
    [
        (["bleu"], {"bleu", "corpus_bleu"}),
        (["bertscore", "json_format"], {"bertscore_f1", "parse_rate"}),
        (["clip_similarity"], {"clip_image_image", "clip_text_image"}),
        (["attribute_f1"], {"attribute_recall", "attribute_recall_type"}),
        (["rouge_l"], {"rouge_l"}),
        (["rewards.text:bleu"], {"bleu", "corpus_bleu"}),
        (["my_rewards.py:brand_match"], set()),
        ([], set()),
    ],
)
def test_metrics_of_a_trained_reward_are_marked_by_family(rewards: list[str], marked: set[str]) -> None:
    known = [*["bleu", "corpus_bleu", "rouge_l", "bertscore_f1", "parse_rate", "clip_image_image", "clip_text_image"]]
    assert trained_metrics(rewards, metrics=[*known, "attribute_recall", "attribute_recall_type"]) == marked


@pytest.mark.parametrize(("key", "value"), [("suite", "recbench"), ("version", "2")])
def test_other_suites_and_versions_are_refused(tmp_path: Path, key: str, value: str) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.1]})
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.1]}, **{key: value})  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match=rf"cannot be compared: .*{value}.*same version of the same suite"):
        compare(before, after)


def test_disjoint_items_are_refused(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.1]}, item_ids=["x"])
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.1]}, item_ids=["y"])
    with pytest.raises(EvaluationError, match="share no item_id"):
        compare(before, after)


def test_disjoint_tasks_are_refused(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.1]})
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.1]}, task="text_to_image")
    with pytest.raises(EvaluationError, match=r"share no task: .*image_to_text.*text_to_image"):
        compare(before, after)


def test_an_item_that_changed_its_category_is_refused(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.1]}, categories=["Toys"])
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.1]}, categories=["Office"])
    with pytest.raises(EvaluationError, match=r"'item-0' is in category 'Toys' .* but in 'Office'"):
        compare(before, after)


def test_an_item_listed_twice_is_refused(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.1, 0.2]}, item_ids=["x", "x"])
    with pytest.raises(EvaluationError, match="'x' appears more than once in image_to_text"):
        compare(before, before)


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


def test_a_folder_without_evaluation_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"holds no evaluation: expected samples\.parquet"):
        compare(tmp_path / "nowhere", tmp_path / "nowhere")


def test_broken_files_are_named(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", scores={"bleu": [0.1]})
    (folder / "summary.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"summary\.json is not valid JSON"):
        compare(folder, folder)
    folder = write_evaluation(tmp_path / "b", scores={"bleu": [0.1]})
    (folder / "samples.parquet").write_bytes(b"PAR1")
    with pytest.raises(EvaluationError, match=r"samples\.parquet cannot be read"):
        compare(folder, folder)


def test_the_checkpoint_folder_stands_for_its_only_suite(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "base" / "cqbench", scores={"bleu": [0.1]})
    write_evaluation(tmp_path / "final" / "cqbench", scores={"bleu": [0.3]}, checkpoint="final")
    assert compare(tmp_path / "base", tmp_path / "final")["metrics"]["bleu"]["delta"] == 0.2
    write_evaluation(tmp_path / "final" / "recbench", scores={"bleu": [0.3]})
    with pytest.raises(EvaluationError, match=r"holds 2 evaluations \(cqbench, recbench\)"):
        compare(tmp_path / "base", tmp_path / "final")


def test_a_metric_of_one_side_is_left_out_and_said(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.1]})
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.1], "chrf": [0.2]})
    task = compare(before, after)
    assert list(task["metrics"]) == ["bleu"]
    assert task["unpaired_metrics"] == ["chrf"]


@pytest.mark.parametrize(
    ("task", "own"),
    [("image_to_text", ["bleu", "parse_rate", "attribute_recall_type"]), ("text_to_image", ["ssim", "parse_rate"])],
)
def test_metrics_of_other_tasks_do_not_appear(tmp_path: Path, task: str, own: list[str]) -> None:
    # One table holds all tasks, so that rows have empty columns for the metrics of other tasks.
    scores = {"bleu": [0.1], "ssim": [0.5], "attribute_recall_type": [1.0], "parse_rate": [1.0]}
    scores = {name: values if name in own else [NAN] for name, values in scores.items()}
    folder = write_evaluation(tmp_path / "a", scores=scores, task=task)
    summary = json.loads((folder / "summary.json").read_text())
    summary["tasks"] = {task: {"metrics": {name: {"n": 1} for name in own}}}
    (folder / "summary.json").write_text(json.dumps(summary))
    [result] = compare_evaluations(folder, [folder], resamples=10)
    assert list(result.tasks[0].metrics) == own


def test_metrics_come_in_the_order_of_the_table_then_attribute_kinds(tmp_path: Path) -> None:
    names = ["attribute_recall_type", "rouge_l", "bleu", "attribute_recall_color"]
    folder = write_evaluation(tmp_path / "a", scores={name: [0.1] for name in names})
    expected = ["bleu", "rouge_l", "attribute_recall_type", "attribute_recall_color"]
    assert list(compare(folder, folder)["metrics"]) == expected


def test_checkpoints_sort_by_step_between_base_and_final() -> None:
    names = ["final", "checkpoint-100", "checkpoint-20", "base"]
    assert sorted(names, key=checkpoint_order) == ["base", "checkpoint-20", "checkpoint-100", "final"]


def test_a_run_compares_base_with_its_latest_checkpoint(tmp_path: Path) -> None:
    for name, score in (("base", 0.1), ("checkpoint-20", 0.2), ("checkpoint-100", 0.4)):
        folder = tmp_path / "evaluations" / name / "cqbench"
        write_evaluation(folder, scores={"bleu": [score] * 8, "chrf": [score] * 8}, checkpoint=name)
    (tmp_path / "config.yaml").write_text(
        "tasks: [image_to_text]\nrewards:\n  mix:\n  - {name: bleu, weight: 0.5}\n  - {name: chrf, weight: 0.0}\n"
    )
    assert RunFolder(tmp_path).latest == "checkpoint-100"
    content = json.loads(write_comparison(tmp_path, resamples=200).read_text())
    metrics = content["tasks"]["image_to_text"]["metrics"]
    assert (content["before"], content["after"], content["rewards"]) == (
        "base",
        "checkpoint-100",
        {"image_to_text": ["bleu"]},
    )
    assert metrics["bleu"]["delta"] == 0.3
    # A monitor (weight 0) is not trained on.
    assert (metrics["bleu"]["was_reward"], metrics["chrf"]["was_reward"]) == (True, False)


def test_a_run_with_only_its_base_evaluated_has_nothing_to_compare(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "evaluations" / "base" / "cqbench", scores={"bleu": [0.1]})
    with pytest.raises(EvaluationError, match="nothing to compare with 'base'"):
        write_comparison(tmp_path)


def test_an_unreadable_config_is_not_mistaken_for_no_rewards(tmp_path: Path) -> None:
    for name in ("base", "final"):
        write_evaluation(tmp_path / "evaluations" / name / "cqbench", scores={"bleu": [0.1]})
    (tmp_path / "config.yaml").write_text("rewards: [")
    with pytest.raises(EvaluationError, match="restore it: it says what was trained on"):
        write_comparison(tmp_path)


def test_metrics_of_a_task_that_was_only_measured_are_not_marked_as_trained_on(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "tasks: [image_to_text, text_to_image]\n"
        "rewards:\n"
        "  mix:\n"
        "  - {name: bleu, weight: 0.5}\n"
        "  - {name: clip_similarity, weight: 0.5, tasks: [text_to_image]}\n"
    )
    assert RunFolder(tmp_path).trained_rewards() == {
        "image_to_text": ["bleu"],
        "text_to_image": ["bleu", "clip_similarity"],
    }
    (tmp_path / "config.yaml").write_text(
        "tasks: [image_to_text]\nrewards: {mix: [{name: clip_similarity, weight: 1}]}\n"
    )
    assert RunFolder(tmp_path).trained_rewards() == {"image_to_text": ["clip_similarity"]}
