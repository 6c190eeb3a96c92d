"""The best checkpoint: chosen on items that are not reported, and linked."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.best import choose_best, decides, write_best
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.pipelines.recipe import check_evaluation

ITEMS = [f"item-{i}" for i in range(200)]
HALF = 0.5


def evaluate(run: Path, name: str, score, *, policy: str | None = None, metric: str = "token_f1") -> None:
    folder = run / "evaluations" / name / "cqbench"
    folder.mkdir(parents=True)
    columns = {
        "item_id": ITEMS,
        "category": ["c"] * len(ITEMS),
        "task": ["image_to_text"] * len(ITEMS),
        f"score/{metric}": [float(score(item)) for item in ITEMS],
    }
    pq.write_table(pa.table(columns), folder / "samples.parquet")
    summary = {"suite": "cqbench", "version": 2, "mode": "corrected", "policy": policy or name, "tasks": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (run / "checkpoints" / name).mkdir(parents=True, exist_ok=True)


def best_of(run: Path, metric: str = "image_to_text.token_f1"):
    return choose_best(run, suite="cqbench", metric=metric, items=HALF)


def test_only_the_deciding_items_decide(tmp_path):
    evaluate(tmp_path, "checkpoint-10", lambda item: 0.5)
    # Better on every item that does not decide, worse on those that do.
    evaluate(tmp_path, "checkpoint-20", lambda item: 0.4 if decides(item, items=HALF) else 1.0)
    best = best_of(tmp_path)
    assert best.checkpoint == "checkpoint-10"
    assert best.values == {"checkpoint-10": pytest.approx(0.5), "checkpoint-20": pytest.approx(0.4)}
    assert best.num_items == sum(decides(item, items=HALF) for item in ITEMS)
    assert 80 <= best.num_items <= 120


def test_the_base_model_is_no_candidate_and_the_earliest_of_equals_wins(tmp_path):
    evaluate(tmp_path, "base", lambda item: 1.0)
    evaluate(tmp_path, "checkpoint-9", lambda item: 0.3)
    evaluate(tmp_path, "checkpoint-10", lambda item: 0.3)
    assert best_of(tmp_path).checkpoint == "checkpoint-9"


def test_a_checkpoint_that_was_deleted_is_not_the_best(tmp_path):
    for name, quality in (("checkpoint-9", 0.9), ("checkpoint-10", 0.3), ("checkpoint-11", 0.4)):
        evaluate(tmp_path, name, lambda item, quality=quality: quality)
    (tmp_path / "checkpoints/checkpoint-9").rmdir()  # as save_total_limit does
    assert best_of(tmp_path).checkpoint == "checkpoint-11"


def test_the_final_policy_counts_unless_it_is_one_of_the_checkpoints(tmp_path):
    evaluate(tmp_path, "checkpoint-10", lambda item: 0.3, policy="p")
    evaluate(tmp_path, "final", lambda item: 0.3, policy="p")
    assert list(best_of(tmp_path).values) == ["checkpoint-10"]
    evaluate(tmp_path / "other", "checkpoint-10", lambda item: 0.3, policy="p")
    evaluate(tmp_path / "other", "final", lambda item: 0.6, policy="q")
    assert best_of(tmp_path / "other").checkpoint == "final"


def test_where_lower_is_better_the_lowest_is_best(tmp_path):
    evaluate(tmp_path, "checkpoint-1", lambda item: 0.2, metric="mse")
    evaluate(tmp_path, "checkpoint-2", lambda item: 0.1, metric="mse")
    assert best_of(tmp_path, "image_to_text.mse").checkpoint == "checkpoint-2"


def test_the_choice_is_written_and_its_checkpoint_linked(tmp_path):
    evaluate(tmp_path, "checkpoint-10", lambda item: 0.5)
    evaluate(tmp_path, "checkpoint-20", lambda item: 0.4)
    best = best_of(tmp_path)
    for _ in range(2):  # a second report of the same run
        write_best(tmp_path, best)
    assert RunFolder(tmp_path).best == best
    assert (tmp_path / "checkpoints" / "best").resolve() == tmp_path / "checkpoints" / "checkpoint-10"


def test_a_metric_that_no_checkpoint_has_is_an_error_with_its_name(tmp_path):
    evaluate(tmp_path, "checkpoint-10", lambda item: float("nan"))
    with pytest.raises(EvaluationError, match=r"image_to_text\.token_f1"):
        best_of(tmp_path)


def test_without_a_choice_there_is_none_and_a_broken_one_is_said(tmp_path):
    assert RunFolder(tmp_path).best is None
    (tmp_path / "best.json").write_text("{")
    with pytest.raises(EvaluationError, match="remove it to report the last checkpoint"):
        _ = RunFolder(tmp_path).best


@pytest.mark.parametrize(
    ("metric", "refused"),
    [
        ("text_to_image.fid", True),  # of a set
        (
            "text_to_image.kid",
            True,
        ),  # an item's value depends on the others: the items that choose would move those that judge
        ("text_to_image.title", True),
        ("text_to_image.ssim", False),
        ("image_to_text.bleu", False),
    ],
)
def test_what_chooses_a_checkpoint_has_a_value_for_an_item_that_depends_on_no_other(metric, refused):
    raw = {"evaluation": {"best": {"metric": metric}, "tasks": ["image_to_text", "text_to_image"]}}
    assert ("evaluation.best.metric" in dict(check_evaluation(raw))) == refused
