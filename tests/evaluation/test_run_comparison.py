"""``comparison.json`` of a run: which checkpoint, which items, which controls."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.cli import main
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.best import choose_best, decides, write_best
from grpo_mmpc.evaluation.comparison import compare_evaluations, write_comparison
from grpo_mmpc.evaluation.run_folder import RunFolder
from tests.evaluation.compared import write_evaluation

ITEMS = [f"item-{number}" for number in range(60)]
SETTINGS = {"catalogue": "abc", "encoders": {"clip": {"model": "one"}}, "renderer": None}


def evaluate(run: Path, name: str, value: Any, *, items: list[str] = ITEMS, **summary: Any) -> Path:
    """Write an evaluation of one category in which items score ``value``, or a function of them."""
    folder = run / "evaluations" / name / "cqbench"
    folder.mkdir(parents=True, exist_ok=True)
    scores = [float(value(item)) if callable(value) else float(value) for item in items]
    columns = {
        "item_id": items,
        "category": ["Toys"] * len(items),
        "task": ["image_to_text"] * len(items),
        "score/bleu": scores,
    }
    pq.write_table(pa.table(columns), folder / "samples.parquet")
    metrics = {"bleu": {"mean": sum(scores) / len(scores), "n": len(items), "n_scored": len(items)}}
    content = {"suite": "cqbench", "version": 2, "mode": "corrected", "policy": name, "settings": SETTINGS}
    content["tasks"] = {"image_to_text": {"metrics": metrics}}
    (folder / "summary.json").write_text(json.dumps(content | summary))
    return folder


def comparison_of(run: Path, **options: Any) -> dict[str, Any]:
    return json.loads(write_comparison(run, resamples=200, **options).read_text())


def test_controls_are_compared_with_the_policy_and_corrected_together(tmp_path):
    evaluate(tmp_path, "base", 0.1)
    evaluate(tmp_path, "final", 0.5)
    evaluate(tmp_path, "control-other_title", lambda item: 0.2 + 0.001 * int(item[5:]))
    evaluate(tmp_path, "control-blank_image-final", lambda item: 0.1 + 0.001 * int(item[5:]))
    controls = comparison_of(tmp_path)["controls"]
    assert list(controls) == ["other_title", "blank_image"]
    cell = controls["blank_image"]["image_to_text"]["metrics"]["bleu"]
    assert (cell["before"], cell["verdict"]) == (0.5, "worse")
    assert controls["blank_image"]["image_to_text"]["families"]["metrics"] == 2
    assert controls["blank_image"]["image_to_text"]["categories"] == {}


@pytest.mark.parametrize(
    "change",
    [
        {"items": ITEMS[:20]},
        {"mode": "paper"},
        {"version": 1},
        {"settings": SETTINGS | {"encoders": {"clip": {"model": "other"}}}},
    ],
    ids=["other items", "other mode", "other version", "other encoders"],
)
def test_a_control_that_was_measured_in_another_way_is_left_out(tmp_path, change):
    evaluate(tmp_path, "base", 0.1)
    evaluate(tmp_path, "final", 0.5)
    evaluate(tmp_path, "control-other_title", 0.2, **change)
    assert comparison_of(tmp_path)["controls"] == {}


def test_controls_of_another_policy_are_not_compared_with_the_best_one(tmp_path):
    evaluate(tmp_path, "base", 0.1)
    evaluate(tmp_path, "checkpoint-1", 0.6)
    evaluate(tmp_path, "final", 0.4)
    evaluate(tmp_path, "control-blank_image-final", 0.39)
    write_best(tmp_path, choose_best(tmp_path, suite="cqbench", metric="image_to_text.bleu", items=0.4))
    assert comparison_of(tmp_path)["controls"] == {}
    # The final policy is the chosen checkpoint: then they are its own.
    evaluate(tmp_path, "final", 0.6, policy="checkpoint-1")
    assert list(comparison_of(tmp_path)["controls"]) == ["blank_image"]


def test_items_that_chose_the_best_checkpoint_are_reported_nowhere(tmp_path, capsys):
    chose = {item for item in ITEMS if decides(item, items=0.4)}
    evaluate(tmp_path, "base", 0.1)
    evaluate(tmp_path, "checkpoint-1", lambda item: 0.9 if item in chose else 0.2)
    evaluate(tmp_path, "checkpoint-2", 0.5)
    write_best(tmp_path, choose_best(tmp_path, suite="cqbench", metric="image_to_text.bleu", items=0.4))
    found = comparison_of(tmp_path)
    assert (found["after"], found["best"]["checkpoint"]) == ("checkpoint-1", "checkpoint-1")
    task = found["tasks"]["image_to_text"]
    assert (task["held_back"], task["n"]) == (len(chose), len(ITEMS) - len(chose))
    assert task["metrics"]["bleu"]["after"] == 0.2

    folders = [str(tmp_path / "evaluations" / name) for name in ("base", "checkpoint-1")]
    assert main(["compare", *folders, "--resamples", "200"]) == 0
    said = capsys.readouterr().out
    assert f"left out: {len(chose)} that chose the best checkpoint" in said
    assert "0.2000" in said and "0.4" not in said.partition("bleu")[2].splitlines()[0]


def test_other_encoders_are_not_compared(tmp_path):
    first = evaluate(tmp_path, "base", 0.1)
    second = evaluate(tmp_path, "final", 0.5, settings=SETTINGS | {"encoders": {"clip": {"model": "other"}}})
    with pytest.raises(EvaluationError, match="scored with encoders"):
        compare_evaluations(first, [second])


def test_a_report_renews_a_comparison_that_is_older_than_an_evaluation(tmp_path, capsys):
    evaluate(tmp_path, "base", 0.1)
    evaluate(tmp_path, "final", 0.5)
    (tmp_path / "config.yaml").write_text("evaluation: {resamples: 200}\nrewards: {mix: []}\n")
    comparison_of(tmp_path)
    main(["report", str(tmp_path)])
    assert "comparison:" not in capsys.readouterr().out, "nothing has changed"
    evaluate(tmp_path, "final", 0.9)
    main(["report", str(tmp_path)])
    assert "comparison:" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "comparison.json").read_text())["tasks"]["image_to_text"]["metrics"]
    assert metrics["bleu"]["after"] == 0.9


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
