"""The runner: completions are parsed, scored, written once; malformed and unscored stay apart."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.evaluation.evaluation_folder import finished
from grpo_mmpc.evaluation.runner import run_suite
from grpo_mmpc.evaluation.scorers import Scorers
from grpo_mmpc.evaluation.suite import Suite
from grpo_mmpc.metrics.metric import Metric
from grpo_mmpc.metrics.table import METRICS
from grpo_mmpc.nano.renderer import NanoRenderer
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.tasks.prompt_rows import prompt_rows, select_balanced, usable_indices
from grpo_mmpc.utils.distributed import Ranks


@pytest.fixture
def catalogue(small_catalogue):
    return load_catalogue(small_catalogue)


def suite_of(catalogue, tasks, *, count=3, **settings) -> Suite:
    rows = tuple(prompt_rows(catalogue, range(count), tasks))
    return Suite(rows=rows, sampling={task: TASKS[task].greedy() for task in tasks}, settings=settings)


class Answers:
    """A stand-in for a policy: it answers rows by a function and remembers which."""

    def __init__(self, answer, *, rows_at_once: int = 2) -> None:
        self.answer = answer
        self.rows_at_once = rows_at_once
        self.asked: list[str] = []

    def generate(self, rows, sampling) -> list[str]:
        assert sampling.temperature == 0
        assert len(rows) <= self.rows_at_once
        completions = [self.answer(row) for row in rows]
        self.asked += [row.prompt_id for row in rows]
        return completions


def run(suite, answer, folder: Path, *, policy: str = "base", **scorers) -> Answers:
    engine = Answers(answer)
    if not finished(folder, key=suite.key, policy=policy):
        run_suite(suite, engine, folder=folder, checkpoint="base", policy=policy, scorers=lambda: Scorers(**scorers))
    return engine


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


def test_samples_say_which_items_are_of_one_product(catalogue, tmp_path):
    suite = suite_of(catalogue, ["image_to_text"])
    first, _, third = (row.item_id for row in suite.rows)
    run(replace(suite, groups={first: "p", third: "p"}), gold, tmp_path)
    assert pq.read_table(tmp_path / "samples.parquet").column("group").to_pylist() == ["p", None, "p"]


def test_a_suite_is_run_once_per_key_and_again_when_anything_it_depends_on_changes(catalogue, tmp_path):
    suite = suite_of(catalogue, ["image_to_text"])
    assert len(run(suite, gold, tmp_path).asked) == 3
    assert run(suite, gold, tmp_path).asked == []
    assert finished(tmp_path, key=suite.key, policy="base")
    assert not finished(tmp_path, key=suite.key, policy="other")
    for changed in (
        suite_of(catalogue, ["image_to_text"], renderer="nano"),
        suite_of(catalogue, ["image_to_text"], count=4),
        replace(suite, mode="paper"),
        replace(suite, chosen=("bleu",)),
    ):
        assert not finished(tmp_path, key=changed.key, policy="base")


def test_scoring_anew_asks_the_policy_only_for_what_it_has_not_answered(catalogue, tmp_path):
    run(suite_of(catalogue, ["image_to_text"]), gold, tmp_path)
    more = suite_of(catalogue, ["image_to_text"], count=4, renderer="nano")
    assert run(more, gold, tmp_path).asked == [more.rows[3].prompt_id]
    longer = replace(more, sampling={"image_to_text": replace(more.sampling["image_to_text"], max_tokens=7)})
    assert len(run(longer, gold, tmp_path).asked) == 4, "another token limit may give other completions"
    assert len(run(longer, gold, tmp_path, policy="adapter").asked) == 4, "another policy gives other completions"


def test_a_killed_evaluation_goes_on_with_the_items_that_are_missing(catalogue, tmp_path):
    suite = suite_of(catalogue, ["image_to_text"], count=7)
    ids = [row.prompt_id for row in suite.rows]

    def killed_at_the_sixth(row):
        if row.prompt_id == ids[5]:
            raise KeyboardInterrupt
        return gold(row)

    with pytest.raises(KeyboardInterrupt):
        run(suite, killed_at_the_sixth, tmp_path)
    log = tmp_path / "completions.jsonl"
    assert len(log.read_text().splitlines()) == 4  # two pieces of two rows were finished
    with log.open("a") as file:
        file.write('{"prompt_id": "image_to_text:x", "key": "0", "compl')  # what a kill leaves of a line
    assert run(suite, gold, tmp_path).asked == ids[4:]
    assert pq.read_table(tmp_path / "samples.parquet").column("completion").to_pylist() == [
        gold(row) for row in suite.rows
    ]


def test_progress_counts_what_was_there_before(catalogue, tmp_path):
    suite = suite_of(catalogue, ["image_to_text"], count=5)
    with pytest.raises(KeyboardInterrupt):
        run(
            suite,
            lambda row: (_ for _ in ()).throw(KeyboardInterrupt()) if row is suite.rows[2] else gold(row),
            tmp_path,
        )
    seen = []
    run_suite(
        suite,
        Answers(gold),
        folder=tmp_path,
        checkpoint="base",
        policy="base",
        scorers=lambda: Scorers(),
        progress=lambda what, done, total: seen.append((what, done, total)),
    )
    assert [entry for entry in seen if entry[0] == "completing image_to_text"] == [
        ("completing image_to_text", 2, 5),
        ("completing image_to_text", 4, 5),
        ("completing image_to_text", 5, 5),
    ]


def test_the_mean_over_categories_weighs_a_small_category_like_a_large_one(catalogue, tmp_path):
    suite = suite_of(catalogue, ["image_to_text"], count=4)
    rows = [replace(row, category="large" if i < 3 else "small") for i, row in enumerate(suite.rows)]
    suite = replace(suite, rows=tuple(rows))
    run(suite, lambda row: gold(row) if row.category == "small" else "malformed", tmp_path)
    task = json.loads((tmp_path / "summary.json").read_text())["tasks"]["image_to_text"]
    assert task["metrics"]["jaccard"]["mean"] == pytest.approx(1 / 4)  # one of four items
    assert task["macro"]["jaccard"] == pytest.approx(1 / 2)  # (0 + 1) / 2
    assert task["categories"]["small"]["jaccard"] == {"mean": pytest.approx(1.0), "n": 1, "n_scored": 1}


def test_a_metric_of_a_set_is_computed_per_category_and_averaged_over_them(catalogue, tmp_path, monkeypatch):
    sizes = Metric(
        name="sizes",
        targets=("text",),
        description="number of items",
        score=lambda inputs: [float("nan")] * len(inputs.predictions),
        of_set=lambda inputs: float(len(inputs.predictions)),
    )
    monkeypatch.setitem(METRICS, "sizes", sizes)
    suite = suite_of(catalogue, ["image_to_text"], count=4)
    suite = replace(
        suite, rows=tuple(replace(row, category="abbb"[i]) for i, row in enumerate(suite.rows)), chosen=("sizes",)
    )
    run(suite, gold, tmp_path)
    task = json.loads((tmp_path / "summary.json").read_text())["tasks"]["image_to_text"]
    assert task["categories"]["b"]["sizes"] == {"mean": 3.0, "n": 3, "n_scored": 3}
    assert task["metrics"]["sizes"] == {"mean": 2.0, "n": 4, "n_scored": 4}  # (1 + 3) / 2


def test_prompts_are_rendered_next_to_the_scores_and_no_render_scores_worst(catalogue, tmp_path):
    suite = suite_of(catalogue, ["text_to_image"])
    first = suite.rows[0].item_id
    run(suite, lambda row: "oops" if row.item_id == first else gold(row), tmp_path, renderer=NanoRenderer())
    summary = json.loads((tmp_path / "summary.json").read_text())
    ssim = summary["tasks"]["text_to_image"]["metrics"]["ssim"]
    # Over all three items, the failed one at 0, and over the two that have a picture.
    assert ssim["mean"] == pytest.approx(ssim["mean_rendered"] * 2 / 3)
    assert summary["rendering"]["text_to_image"]["failures"] == {}
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert rows[0]["rendered_image"] is None
    assert all((tmp_path / row["rendered_image"]).is_file() for row in rows[1:])
    assert rows[0]["score/ssim"] <= min(row["score/ssim"] for row in rows[1:])
    # The nano renderer draws a full title as the picture it came from, up to the jitter of its
    # marks.
    assert min(row["score/ssim"] for row in rows[1:]) > 0.3


def test_another_rank_generates_and_writes_nothing(catalogue, tmp_path):
    suite = suite_of(catalogue, ["image_to_text"])
    engine = Answers(gold)
    run_suite(
        suite,
        engine,
        folder=tmp_path / "out",
        checkpoint="base",
        policy="base",
        scorers=lambda: pytest.fail("only the main process scores"),
        # The main process has the first completion already.
        ranks=Ranks(rank=1, count=2, broadcast=lambda value: ([1, 2], None)),
    )
    assert engine.asked == [row.prompt_id for row in suite.rows[1:]]
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
