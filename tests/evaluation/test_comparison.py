"""Paired comparison of two evaluations: pairing, hand-worked cells, refusals, files."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.checkpoints import checkpoint_order, latest_checkpoint
from grpo_mmpc.evaluation.comparison import compare_evaluations, write_comparison
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
    settings: dict[str, Any] = {"reward_names": {}, "resamples": 4000} | options
    return compare_evaluations(before, after, **settings)["tasks"]["image_to_text"]


def test_items_pair_by_identifier_not_by_row(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.1, 0.2, 0.9]}, item_ids=["x", "y", "gone"])
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.6, 0.3, 0.0, 0.0]}, item_ids=["y", "x", "new", "newer"])
    task = compare(before, after)
    # x: .1 -> .3, y: .2 -> .6; means .15 -> .45.
    cell = task["metrics"]["bleu"]
    assert (cell["before"], cell["after"], cell["delta"]) == (0.15, 0.45, 0.3)
    assert (cell["n"], cell["n_scored"]) == (2, 2)
    assert task["unpaired"] == {"before_only": 1, "after_only": 2}


def test_a_pair_counts_only_when_both_sides_are_scored(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.1, NAN, 0.3, 0.4]})
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.2, 0.9, None, 0.6]})
    cell = compare(before, after)["metrics"]["bleu"]
    # Items 0 and 3 remain: (.1 + .4) / 2 = .25, (.2 + .6) / 2 = .4.
    assert (cell["before"], cell["after"], cell["delta"]) == (0.25, 0.4, 0.15)
    assert (cell["n"], cell["n_scored"]) == (4, 2)


def test_interval_of_one_changed_item_in_six_is_binomial(tmp_path: Path) -> None:
    # Differences 0,0,0,0,0,.6: a resampled mean is .1 * Binomial(6, 1/6), with P(k<=3) = .9913 and P(k<=4) = .9993.
    # The expanded tail at six items is .0024, so the ends are k=0 (P = .335) and k=4: 0 and .4.
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 6})
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.0] * 5 + [0.6]})
    cell = compare(before, after, resamples=20_000)["metrics"]["bleu"]
    assert cell["delta"] == 0.1
    assert cell["ci95"] == [0.0, 0.4]
    assert cell["verdict"] == "no evidence"


@pytest.mark.parametrize(("change", "verdict"), [(0.25, "better"), (-0.25, "worse"), (0.0, "no evidence")])
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
    monkeypatch.setitem(METRICS, "distance", lower(**fields | {"name": "distance", "higher_is_better": False}))
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
    """A corpus-level metric one can do by hand: sum of the first statistic over sum of the second."""
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
    # The third pair is unscored. Before (1+3)/(4+4) = .5; after (2+6)/(4+8) = 2/3, not the mean of ratios .625.
    assert cell["before"] == 0.5
    assert cell["after"] == pytest.approx(2 / 3)
    assert (cell["n"], cell["n_scored"]) == (3, 2)


def test_corpus_metrics_resample_items_before_aggregating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Denominators are all 1, so the corpus ratio is the mean of the numerators and must get the same interval as the
    # item-level metric with the same values: same items, same resamples.
    corpus_ratio(monkeypatch)
    values = [0.0, 0.1, 0.5, 0.9, 0.2, 0.4, 0.7, 0.3]
    statistics = {"ratio": [[value, 1.0] for value in values]}
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 8}, statistics={"ratio": [[0.0, 1.0]] * 8})
    after = write_evaluation(tmp_path / "b", scores={"bleu": values}, statistics=statistics)
    metrics = compare(before, after)["metrics"]
    assert metrics["ratio"]["ci95"] == pytest.approx(metrics["bleu"]["ci95"])


def test_identical_evaluations_show_exactly_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus_ratio(monkeypatch)
    generator = np.random.default_rng(0)
    scores = {"bleu": generator.random(30).tolist(), "chrf": generator.random(30).tolist()}
    statistics = {"ratio": generator.random((30, 2)).tolist()}
    before = write_evaluation(tmp_path / "a", scores=scores, statistics=statistics)
    after = write_evaluation(tmp_path / "b", scores=scores, statistics=statistics, checkpoint="final")
    for cell in compare(before, after)["metrics"].values():
        assert (cell["delta"], cell["ci95"], cell["verdict"]) == (0.0, [0.0, 0.0], "no evidence")


def test_macro_is_the_unweighted_mean_over_categories(tmp_path: Path) -> None:
    categories = ["Toys"] * 12 + ["Office"] * 6
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 18}, categories=categories)
    after = write_evaluation(tmp_path / "b", scores={"bleu": [0.5] * 12 + [0.2] * 6}, categories=categories)
    task = compare(before, after)
    # Over items (12 * .5 + 6 * .2) / 18 = .4; over categories (.5 + .2) / 2 = .35.
    assert task["metrics"]["bleu"]["delta"] == 0.4
    assert task["macro"]["bleu"]["delta"] == 0.35
    assert task["macro"]["bleu"]["ci95"] == [0.35, 0.35]
    assert list(task["categories"]) == ["Office", "Toys"]
    assert task["categories"]["Toys"]["bleu"]["delta"] == 0.5


def test_category_intervals_are_also_given_corrected_for_their_number(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    categories = [name for name in ("A", "B", "C", "D", "E") for _ in range(20)]
    before = write_evaluation(tmp_path / "a", scores={"bleu": [0.0] * 100}, categories=categories)
    after = write_evaluation(tmp_path / "b", scores={"bleu": generator.normal(size=100)}, categories=categories)
    result = compare_evaluations(before, after, reward_names={}, resamples=4000)
    for cell in result["tasks"]["image_to_text"]["categories"].values():
        (low, high), (wide_low, wide_high) = cell["bleu"]["ci95"], cell["bleu"]["ci95_corrected"]
        assert wide_low < low < high < wide_high
    # Five comparisons: the corrected interval is the 99% one.
    at_99 = compare_evaluations(before, after, reward_names={}, resamples=4000, confidence=0.99)
    for name, cell in result["tasks"]["image_to_text"]["categories"].items():
        expected = at_99["tasks"]["image_to_text"]["categories"][name]["bleu"]["ci99"]
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
        (["attribute_recall"], {"attribute_recall", "attribute_recall_type"}),
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


def test_metrics_of_other_tasks_do_not_appear(tmp_path: Path) -> None:
    # One table holds all tasks, so rows of image_to_text have empty columns for the metrics of text_to_image.
    scores = {"bleu": [0.1], "ssim": [NAN], "attribute_recall_type": [1.0], "parse_rate": [1.0]}
    folder = write_evaluation(tmp_path / "a", scores=scores)
    assert list(compare(folder, folder)["metrics"]) == ["bleu", "parse_rate", "attribute_recall_type"]
    scores = {"bleu": [NAN], "ssim": [0.5], "attribute_recall_type": [NAN], "parse_rate": [1.0]}
    folder = write_evaluation(tmp_path / "b", scores=scores, task="text_to_image")
    result = compare_evaluations(folder, folder, reward_names={}, resamples=10)
    assert set(result["tasks"]["text_to_image"]["metrics"]) == {"ssim", "parse_rate"}


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
    assert latest_checkpoint(tmp_path) == "checkpoint-100"
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
    with pytest.raises(EvaluationError, match="cannot read which rewards were trained on"):
        write_comparison(tmp_path)


def test_metrics_of_a_task_that_was_only_measured_are_not_marked_as_trained_on(tmp_path: Path) -> None:
    from grpo_mmpc.evaluation.trained import trained_rewards

    (tmp_path / "config.yaml").write_text(
        "tasks: [image_to_text, text_to_image]\n"
        "rewards:\n"
        "  mix:\n"
        "  - {name: bleu, weight: 0.5}\n"
        "  - {name: clip_similarity, weight: 0.5, tasks: [text_to_image]}\n"
    )
    assert trained_rewards(tmp_path) == {"image_to_text": ["bleu"], "text_to_image": ["bleu", "clip_similarity"]}
    (tmp_path / "config.yaml").write_text(
        "tasks: [image_to_text]\nrewards: {mix: [{name: clip_similarity, weight: 1}]}\n"
    )
    assert trained_rewards(tmp_path) == {"image_to_text": ["clip_similarity"]}
