"""Agreement of rewards with graded answers."""

import json
from pathlib import Path

import pytest

from grpo_mmpc.analysis.reward_bench.candidates import Candidate
from grpo_mmpc.analysis.reward_bench.graded import GradedAnswers, agreement, read_graded
from grpo_mmpc.cli import main
from grpo_mmpc.errors import RewardError

EACH = {item: number for number, item in enumerate("abcdefghijklmnopqrstuvwx")}
"""Every item is a product of its own."""
OWN = Path(__file__).parent / "own_rewards.py"


def graded(*rows: tuple[str, float], task: str = "image_to_text") -> GradedAnswers:
    answers = [Candidate(item_id=item, task=task, kind="graded", text="x") for item, _ in rows]
    return GradedAnswers(answers=answers, grades=[grade for _, grade in rows])


def test_pairs_are_compared_within_items_and_every_item_counts_once():
    rows = graded(("a", 3), ("a", 2), ("a", 1), ("b", 5), ("b", 1), ("c", 4), ("d", 2), ("d", 2))
    # a: 3 > 2 is ordered alike, 3 > 1 is a tie, 2 > 1 the other way round: 1.5 of 3. b: 1 of 1.
    # c has one answer, d no difference. Mean of a and b, not 2.5 of 4
    found = agreement(rows, [0.5, 0.1, 0.5, 0.9, 0.2, 0.3, 0.0, 1.0], "image_to_text", products=EACH)
    assert found.agreement == pytest.approx((0.5 + 1.0) / 2)
    assert (found.pairs, found.items, found.answers, found.unscored) == (4, 2, 8, 0)
    assert found.interval is None  # two items show nothing


def test_variants_of_one_product_count_once_in_the_interval():
    items = "abcdefghijklmnopqrstuvwx"
    rows = graded(*((item, grade) for item in items for grade in (1, 2)))
    # Six products of four variants; the reward is wrong about two products of the six.
    scores = [score for place in range(24) for score in ((1.0, 0.0) if place < 8 else (0.0, 1.0))]
    products = {item: place // 4 for place, item in enumerate(items)}
    six = graded(*((item, grade) for item in items[::4] for grade in (1, 2)))
    alone = agreement(
        six, [s for place in range(0, 48, 8) for s in scores[place : place + 2]], "image_to_text", products=EACH
    )
    assert alone.agreement == pytest.approx(4 / 6) and alone.interval is not None
    assert agreement(rows, scores, "image_to_text", products=products).interval == alone.interval
    assert agreement(rows, scores, "image_to_text", products=EACH).interval != alone.interval


def test_unscored_answers_are_counted_and_not_compared():
    found = agreement(graded(("a", 3), ("a", 2), ("b", 1)), [0.5, None, None], "image_to_text", products=EACH)
    assert (found.agreement, found.pairs, found.answers, found.unscored) == (None, 0, 1, 2)
    assert found.rank_correlation is None


def test_rank_correlation_is_spearman_s_over_all_answers():
    # ranks 1 2 3 against 1 3 2: 1 - 6 * (0 + 1 + 1) / (3 * 8)
    found = agreement(graded(("a", 1), ("b", 2), ("c", 3)), [0.1, 0.9, 0.5], "image_to_text", products=EACH)
    assert found.rank_correlation == pytest.approx(0.5)


def test_another_task_s_answers_do_not_count():
    found = agreement(graded(("a", 1), ("a", 2)), [0.0, 1.0], "text_to_image", products=EACH)
    assert (found.answers, found.unscored, found.agreement) == (0, 0, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"item_id": "a", "answer": "x"}, "line 1: expected item_id and answer as text and grade as a number"),
        ({"item_id": 7, "answer": "x", "grade": 1}, "line 1: expected item_id"),
        ({"item_id": "a", "answer": "x", "grade": True}, "line 1: expected item_id"),
        ({"item_id": "a", "answer": "x", "grade": 1, "task": "poem"}, "task must be one of"),
        (None, "holds no answer"),
    ],
)
def test_a_line_that_is_no_graded_answer_is_refused_with_its_number(tmp_path, line, message):
    path = tmp_path / "graded.jsonl"
    path.write_text("" if line is None else json.dumps(line) + "\n", "utf-8")
    with pytest.raises(RewardError, match=message):
        read_graded(path)


def test_the_preview_shows_agreement_and_changes_nothing_else(tmp_path, capsys):
    from grpo_mmpc.catalogue import load_catalogue
    from grpo_mmpc.nano.catalogue import catalogue_folder

    catalogue = load_catalogue(catalogue_folder("nano:catalogue"))
    rows = []
    for i in range(8):
        record = catalogue.record(i)
        rows += [{"item_id": record.item_id, "answer": text, "grade": g} for text, g in ((record.title, 5), ("Mug", 1))]
    path = tmp_path / "graded.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = ["rewards", "preview", "--catalogue", "nano:catalogue", "--items", "9"]
    command += ["--mix", "tasks=[image_to_text]", f"rewards.mix=[{{name: '{OWN}:exact', weight: 1.0}}]"]
    results = []
    for extra in ([], ["--graded", str(path)]):
        assert main([*command, "--out", str(tmp_path / "out"), *extra]) == 0
        results.append(json.loads((tmp_path / "out/preview.json").read_text("utf-8"))["rewards"])
    said = capsys.readouterr().out
    assert "image_to_text: agreement with the graded answers" in said
    exact, mix = results[1]
    assert exact["agreement"]["image_to_text"]["agreement"] == 1.0
    assert exact["agreement"]["image_to_text"]["pairs"] == 8
    assert [one["tasks"] for one in results[0]] == [exact["tasks"], mix["tasks"]]
    assert "Agreement with the graded answers" in (tmp_path / "out/preview.html").read_text("utf-8")
    path.write_text(json.dumps({"item_id": "gone", "answer": "x", "grade": 1}), "utf-8")
    assert main([*command, "--graded", str(path)]) == 2
    assert "nano:catalogue has no item 'gone'" in capsys.readouterr().err
