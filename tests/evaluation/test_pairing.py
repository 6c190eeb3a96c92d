"""Pairs of items, tasks and metrics of two evaluations, and what is refused."""

import json
from pathlib import Path

import pytest

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.comparison import compare_evaluations
from tests.evaluation.compared import NAN, compare, write_evaluation


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


def test_modes_are_not_compared_with_each_other(tmp_path: Path) -> None:
    first, second = (write_evaluation(tmp_path / name, scores={"bleu": [0.1] * 8}) for name in ("a", "b"))
    for folder, mode in ((first, "corrected"), (second, "paper")):
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"mode": mode}))
    with pytest.raises(EvaluationError, match=r"scored in corrected mode, .* in paper mode"):
        compare(first, second)
    assert compare(second, second)["metrics"]["bleu"]["delta"] == 0.0


def test_answers_decoded_by_a_schema_are_not_compared_with_free_ones(tmp_path: Path) -> None:
    free, structured, theirs = (write_evaluation(tmp_path / name, scores={"bleu": [0.1] * 8}) for name in "abc")
    for folder, settings in ((free, {"renderer": None}), (structured, {"renderer": None, "structured": True})):
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"settings": settings}))
    for pair in ((free, structured), (structured, free)):
        with pytest.raises(EvaluationError, match=r"/b was decoded by the schema of its answers, .*/a freely"):
            compare(*pair)
    assert compare(structured, theirs)["metrics"]["bleu"]["delta"] == 0.0, "another system decodes as it likes"


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


def test_a_comparison_says_how_far_it_is(tmp_path: Path) -> None:
    before, after = (write_evaluation(tmp_path / name, scores={"bleu": [0.1] * 9}) for name in "ab")
    said: list[tuple[str, int, int]] = []
    compare(before, after, progress=lambda *what: said.append(what))
    work = "comparing 9 items of image_to_text, by category"
    assert said == [(work, 0, 2), (work, 1, 2)]  # before the one category, and before all of them


def test_progress_is_shown_before_each_category_and_before_all_items(tmp_path: Path) -> None:
    categories, shown = list("AB") * 8, []
    sides = [
        write_evaluation(tmp_path / name, scores={"bleu": [value] * 16}, categories=categories)
        for name, value in (("a", 0.0), ("b", 0.1))
    ]
    compare(*sides, resamples=200, progress=lambda *piece: shown.append(piece))
    assert shown == [("comparing 16 items of image_to_text, by category", done, 3) for done in range(3)]
