"""The plain sentences of a run's page, and what stands before its result."""

from typing import Any

from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.reports.common.gallery import Answer, Item
from grpo_mmpc.reports.run.examples import AFTER, BEFORE
from grpo_mmpc.reports.run.plain import plain_sentences, task_troubles


def cell(before: float, after: float, *, verdict: str = "better", n: int = 360, **changes: Any) -> Cell:
    return Cell(before=before, after=after, delta=after - before, n=n, n_scored=n, verdict=verdict, **changes)


def task(metrics: dict[str, Cell], *, n: int = 360) -> TaskComparison:
    return TaskComparison(task="image_to_text", n=n, metrics=metrics, macro={}, categories={})


def items(*changes: float) -> list[Item]:
    def answer(score: float) -> Answer:
        return Answer(prediction=f"{score}", completion=f"{score}", score=score, rendered=None)

    return [
        Item(
            item_id=str(i),
            category="Toys",
            reference="x",
            image=None,
            answers={BEFORE: answer(0.5), AFTER: answer(0.5 + change)},
        )
        for i, change in enumerate(changes)
    ]


def test_attributes_are_said_in_counts_the_largest_change_first_and_only_beyond_noise() -> None:
    metrics = {
        "bleu": cell(0.1, 0.5),
        "attribute_recall_color": cell(0.90, 0.95, verdict="no evidence"),
        "attribute_recall_size": cell(0.80, 0.60, verdict="worse"),
        "attribute_recall_brand": cell(0.04, 0.76),
    }
    said = plain_sentences(task(metrics), [], lead="bleu")
    assert said == [
        "The brand is named in 76 of 100 answers, 4 before.",
        "The size is named in 60 of 100 answers, 80 before.",
    ]
    few = {"attribute_recall_brand": cell(0.25, 0.75, n=16)}
    assert plain_sentences(task(few), [], lead=None) == ["The brand is named in 12 of 16 answers, 4 before."]


def test_answers_are_counted_and_where_most_are_as_before_that_comes_first() -> None:
    metrics = {"bleu": cell(0.1, 0.5)}
    said = plain_sentences(task(metrics), items(0.1, 0.1, -0.1, 0.0), lead="bleu")
    assert said == [
        "Of 4 answers, 2 got better by BLEU, 1 got worse and 1 stayed the same.",
        "1 of 4 answers are word for word as before.",
    ]
    assert plain_sentences(task(metrics), items(0.1, *[0.0] * 13), lead="bleu")[0] == (
        "13 of 14 answers are word for word as before."
    )
    lower = {"mse": cell(0.5, 0.4, higher_is_better=False)}
    assert "1 got better" in plain_sentences(task(lower), items(-0.1, 0.0), lead="mse")[0]


def test_answers_that_cannot_be_read_are_counted() -> None:
    metrics = {"parse_rate": cell(1.0, 0.75, verdict="worse")}
    assert plain_sentences(task(metrics), [], lead=None) == ["25 of 100 answers cannot be read at all."]


def test_what_makes_a_result_meaningless_is_said_before_it() -> None:
    same = items(0.0, 0.0, 0.0)
    [said] = task_troubles(task({"bleu": cell(0.5, 0.5, verdict="no evidence")}), same, lead="bleu")
    assert "all 3 answers are word for word as before" in said
    [said] = task_troubles(task({"bleu": cell(0.5, 0.6, verdict="too few items")}, n=4), [], lead="bleu")
    assert "4 held-out items are too few for any verdict" in said
    assert task_troubles(task({"bleu": cell(0.5, 0.6)}), items(0.1), lead="bleu") == []
