"""Sentences of the report: what they claim, and that they never claim more than the interval
allows."""

from typing import Any

import pytest

from grpo_mmpc.evaluation.records import Cell, Comparison, TaskComparison
from grpo_mmpc.reports.common.findings import texts
from grpo_mmpc.reports.run.headline import Headline, change, headline, lead_metric
from grpo_mmpc.statistics.verdicts import verdict


def cell(
    before: float | None,
    after: float | None,
    interval: tuple[float, float] | None,
    *,
    n: int = 360,
    was_reward: bool = False,
    higher_is_better: bool = True,
    p_holm: float | None = 0.004,
    no_interval: bool = False,
) -> Cell:
    """As the comparison would write it: a finding unless ``p_holm`` or the interval is against
    it."""
    ends = None if interval is None else list(interval)
    delta = None if before is None or after is None else after - before
    raw = {"before": before, "after": after, "delta": delta, "ci95": ends, "n": n, "was_reward": was_reward}
    raw |= {"n_scored": 0 if before is None else n, "higher_is_better": higher_is_better}
    raw |= {"p": p_holm, "p_holm": p_holm, "effect_size": 0.5}
    word = verdict(delta, interval, p_holm, higher_is_better=higher_is_better, confidence=0.95)
    raw |= {"verdict": "no interval" if no_interval else word}
    content: dict[str, Any] = {"before": "base", "after": "final", "resamples": 1000}
    content["tasks"] = {"image_to_text": {"metrics": {"x": raw}, "categories": {}}}
    return Comparison.from_json(content).tasks[0].metrics["x"]


def task(metrics: dict[str, Cell], categories: dict[str, dict[str, Cell]] | None = None) -> TaskComparison:
    return TaskComparison(
        task="image_to_text",
        n=360,
        before_only=0,
        after_only=0,
        held_back=0,
        families={"categories": 4},
        metrics=metrics,
        macro={},
        categories=categories or {},
    )


def words_of(compared: TaskComparison, **weights: float) -> Headline:
    return headline(compared, weights=weights, percent="95%")


BETTER = cell(0.31, 0.622, (0.284, 0.341))
WORSE = cell(0.51, 0.33, (-0.24, -0.13))
UNCLEAR = cell(0.31, 0.314, (-0.01, 0.018))


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (BETTER, "BLEU rose from 0.310 to 0.622 (+0.312, 95% interval +0.284 to +0.341, corrected p 0.004, 360 items)"),
        (
            WORSE,
            "BLEU got worse: it fell from 0.510 to 0.330 "
            "(−0.180, 95% interval −0.240 to −0.130, corrected p 0.004, 360 items)",  # noqa: RUF001
        ),
        (
            UNCLEAR,
            "BLEU: no evidence of a change, 0.310 before and 0.314 after "
            "(+0.004, 95% interval −0.010 to +0.018, corrected p 0.004, 360 items)",  # noqa: RUF001
        ),
        (cell(0.2, 0.4, None, n=1), "BLEU went from 0.200 to 0.400 (+0.200, 1 item: too few for an interval)"),
        (
            cell(0.31, 0.33, (0.01, 0.03), p_holm=0.12),
            "BLEU: no evidence of a change, 0.310 before and 0.330 after "
            "(+0.020, 95% interval +0.010 to +0.030, corrected p 0.120, 360 items)",
        ),
        (
            cell(30.0, 24.0, None, no_interval=True),
            "BLEU went from 30.000 to 24.000 (−6.000, 360 items: one value for all of them, so no interval)",  # noqa: RUF001
        ),
        (cell(None, None, None, n=12), "BLEU could not be scored on any of 12 items"),
        (
            cell(0.5, 0.2, (-0.4, -0.2), higher_is_better=False),
            "BLEU fell from 0.500 to 0.200, which is better "
            "(−0.300, 95% interval −0.400 to −0.200, corrected p 0.004, 360 items)",  # noqa: RUF001
        ),
        (
            cell(0.2, 0.5, (0.2, 0.4), higher_is_better=False),
            "BLEU got worse: it rose from 0.200 to 0.500 (+0.300, 95% interval +0.200 to +0.400, corrected p 0.004, "
            "360 items)",
        ),
    ],
)
def test_a_change_is_told_as_far_as_its_interval_allows(found: Cell, sentence: str) -> None:
    assert change("BLEU", found, percent="95%").text == f"{sentence}."


def test_the_heaviest_reward_leads() -> None:
    trained = {"was_reward": True}
    compared = task(
        {
            "bleu": cell(0.1, 0.2, (0.05, 0.15), **trained),
            "bertscore_f1": cell(0.1, 0.2, (0.05, 0.15), **trained),
            "parse_rate": cell(0.1, 0.2, (0.05, 0.15), **trained),
        }
    )
    assert lead_metric(compared, weights={"bleu": 0.3, "bertscore": 0.5, "json_format": 0.9}) == "bertscore_f1"
    # Parsing is not quality, however much it weighs; without a config the first trained metric
    # leads.
    assert lead_metric(compared, weights={}) == "bleu"


def test_without_rewards_the_first_scored_metric_leads() -> None:
    compared = task({"bleu": cell(None, None, None), "chrf": BETTER, "rouge_l": BETTER})
    assert lead_metric(compared, weights={"my_own": 1.0}) == "chrf"


def test_every_metric_that_fell_is_warned_about_trained_on_or_not() -> None:
    compared = task(
        {
            "bleu": cell(0.31, 0.622, (0.284, 0.341), was_reward=True),
            "bertscore_f1": cell(0.5, 0.4, (-0.2, -0.05), was_reward=True),
            "embedding_cosine": WORSE,
            "chrf": UNCLEAR,
            "attribute_recall_type": WORSE,
        }
    )
    warnings = words_of(compared, bleu=1.0).warnings
    assert [text.split(" got worse")[0] for text in texts(warnings)] == [
        *("BERTScore F1", "Embedding cosine", "Recall of the type")
    ]


def test_a_headline_that_fell_says_so_itself() -> None:
    told = words_of(task({"bleu": WORSE}))
    assert told.finding.tone == "worse"
    assert told.finding.text.startswith("BLEU got worse: it fell")


def test_untrained_metrics_are_counted_by_what_happened_to_them() -> None:
    compared = task(
        {
            "bleu": cell(0.31, 0.622, (0.284, 0.341), was_reward=True),
            "chrf": BETTER,
            "rouge_l": BETTER,
            "jaccard": WORSE,
            "ssim": UNCLEAR,
            "bertscore_f1": cell(None, None, None),
        }
    )
    assert texts(words_of(compared).details) == [
        "Rewards (*) are inflated by training on them: 1 better, 0 worse. Judge by the 4 metrics that were not trained "
        "on: "
        "2 better, 1 worse, 1 no evidence.",
        "No evidence of a difference in SSIM (this does not show that there is none).",
        "No verdict on BERTScore F1 (not scored).",
    ]


def test_categories_count_only_after_correction() -> None:
    sure = cell(0.1, 0.3, (0.1, 0.3))
    unsure = cell(0.1, 0.3, (0.01, 0.4), p_holm=0.2)
    fell = cell(0.3, 0.1, (-0.3, -0.1))
    few = cell(0.1, 0.3, None, n=2)
    categories = {"A": {"bleu": sure}, "B": {"bleu": unsure}, "C": {"bleu": fell}, "D": {"bleu": few}}
    told = words_of(task({"bleu": BETTER}, categories))
    assert told.details[-1].text == (
        "By category, BLEU got better in 1 of 4 and worse in 1, counting changes that hold after correction for "
        "4 comparisons; 1 category has too few items to tell."
    )
    assert [text.split(" got worse")[0] for text in texts(told.warnings)] == ["BLEU in C"]
    told = words_of(task({"bleu": BETTER}, {"A": {"bleu": few}, "D": {"bleu": few}}))
    assert told.details[-1].text == "By category nothing can be told: each has too few items."


def test_a_task_without_any_score_says_so() -> None:
    told = words_of(task({"bleu": cell(None, None, None)}))
    assert told.finding.text == "Image to text: nothing could be scored on 360 items."
