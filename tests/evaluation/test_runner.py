"""The runner: what is generated is parsed, scored and written once; malformed and unscored stay apart."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.evaluation.runner import Scorers, finished, run_suite
from grpo_mmpc.evaluation.suite import Suite, cqbench
from grpo_mmpc.prompts import prompt_rows, select_balanced, usable_indices
from grpo_mmpc.rendering.nano import NanoRenderer
from grpo_mmpc.tasks import TASKS


@pytest.fixture
def catalogue(small_catalogue):
    return load_catalogue(small_catalogue)


def suite_of(catalogue, tasks, *, count=3, **settings) -> Suite:
    return cqbench(prompt_rows(catalogue, range(count), tasks), max_tokens={}, settings=settings)


class Answers:
    """Stands for a policy: answers every row by a function and counts its calls."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.calls = 0

    def __call__(self, rows, sampling) -> list[str]:
        self.calls += 1
        assert sampling.temperature == 0
        return [self.answer(row) for row in rows]


def run(suite, answer, folder: Path, **scorers) -> Answers:
    generate = Answers(answer)
    if not finished(folder, suite):
        run_suite(suite, generate, folder=folder, checkpoint="base", scorers=lambda: Scorers(**scorers))
    return generate


def gold(row) -> str:
    return TASKS[row.task].answer(row.title)


def test_perfect_titles_score_one_in_every_text_metric(catalogue, tmp_path):
    suite = suite_of(catalogue, ["image_to_text"])
    run(suite, gold, tmp_path)
    metrics = json.loads((tmp_path / "summary.json").read_text())["tasks"]["image_to_text"]["metrics"]
    for name in ("bleu", "corpus_bleu", "chrf", "rouge_l", "token_f1", "jaccard", "tfidf_cosine", "parse_rate"):
        assert metrics[name] == {"mean": pytest.approx(1.0), "n": 3, "n_scored": 3}, name
    for kind in ("type", "color", "size", "material", "brand"):
        assert metrics[f"attribute_recall_{kind}"]["mean"] == 1.0


def test_a_malformed_completion_scores_worst_and_a_missing_encoder_leaves_null(catalogue, tmp_path):
    suite = suite_of(catalogue, ["image_to_text"])
    first = suite.rows[0].item_id
    run(
        suite, lambda row: "error" if row.item_id == first else gold(row), tmp_path, missing={"bertscore": "no weights"}
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    metrics = summary["tasks"]["image_to_text"]["metrics"]
    assert metrics["bleu"] == {"mean": pytest.approx(2 / 3), "n": 3, "n_scored": 3}
    assert metrics["parse_rate"]["mean"] == pytest.approx(2 / 3)
    assert metrics["bertscore_f1"] == {"mean": None, "n": 3, "n_scored": 0}
    assert summary["missing"] == {"bertscore": "no weights"}
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert [row["format"] for row in rows] == ["malformed", "json", "json"]
    assert rows[0]["prediction"] is None
    assert rows[0]["completion"] == "error"


def test_a_suite_is_run_once_per_key_and_again_when_anything_it_depends_on_changes(catalogue, tmp_path):
    suite = suite_of(catalogue, ["image_to_text"])
    assert run(suite, gold, tmp_path).calls == 1
    assert run(suite, gold, tmp_path).calls == 0
    assert run(suite_of(catalogue, ["image_to_text"], renderer="nano"), gold, tmp_path).calls == 1
    assert run(suite_of(catalogue, ["image_to_text"], count=4), gold, tmp_path).calls == 1


def test_an_evaluation_that_was_cut_off_before_its_summary_is_repeated(catalogue, tmp_path):
    suite = suite_of(catalogue, ["image_to_text"])
    run(suite, gold, tmp_path)
    (tmp_path / "summary.json").unlink()
    assert run(suite, gold, tmp_path).calls == 1


def test_prompts_are_rendered_next_to_the_scores_and_no_render_scores_worst(catalogue, tmp_path):
    suite = suite_of(catalogue, ["text_to_image"])
    first = suite.rows[0].item_id
    run(suite, lambda row: "oops" if row.item_id == first else gold(row), tmp_path, renderer=NanoRenderer())
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert rows[0]["rendered_image"] is None
    assert all((tmp_path / row["rendered_image"]).is_file() for row in rows[1:])
    assert rows[0]["score/ssim"] <= min(row["score/ssim"] for row in rows[1:])
    # The nano renderer draws a full title as the picture it came from, up to the jitter of its marks.
    assert min(row["score/ssim"] for row in rows[1:]) > 0.3


def test_another_rank_generates_and_writes_nothing(catalogue, tmp_path):
    generate = Answers(gold)
    run_suite(
        suite_of(catalogue, ["image_to_text"]),
        generate,
        folder=tmp_path / "out",
        checkpoint="base",
        scorers=lambda: pytest.fail("only the main process scores"),
        is_main_process=False,
    )
    assert generate.calls == 1
    assert not (tmp_path / "out").exists()


def test_items_are_chosen_evenly_over_categories_and_the_choice_is_stable(catalogue):
    indices = usable_indices(catalogue, range(len(catalogue)))
    chosen = select_balanced(catalogue, indices, max_items=18, salt="")
    per_category = {}
    for i in chosen:
        per_category.setdefault(catalogue.record(i).category, []).append(i)
    assert {len(v) for v in per_category.values()} == {2} and len(per_category) == 9
    assert select_balanced(catalogue, indices[::-1], max_items=18, salt="") == chosen
    assert select_balanced(catalogue, indices, max_items=9, salt="") == chosen[:9]
    assert set(select_balanced(catalogue, indices, max_items=18, salt="other")) != set(chosen)


def test_the_reference_never_appears_in_an_image_prompt(catalogue):
    for row in prompt_rows(catalogue, range(20), ["image_to_text"]):
        assert row.reference not in json.dumps(row.messages)
        assert row.prompt_image_path is not None
    for row in prompt_rows(catalogue, range(20), ["text_to_image"]):
        assert row.prompt_image_path is None
        assert row.reference is None
