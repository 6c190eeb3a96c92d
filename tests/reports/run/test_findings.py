"""Sentences of a comparison: every metric under what the data say of it, and nothing claimed
beyond."""

from collections.abc import Callable
from typing import Any

import pytest

from grpo_mmpc.evaluation.records import Cell, TaskComparison
from grpo_mmpc.reports.common.findings import Finding, texts
from grpo_mmpc.reports.common.labels import metric_label
from grpo_mmpc.reports.run.findings import findings

GAP = {"better": (0.1, 0.3), "worse": (-0.3, -0.1), "no evidence": (-0.1, 0.2)}


def cell(verdict: str, *, was_reward: bool = False, interval: tuple[float, float] | None = None) -> Cell:
    scored = verdict != "unscored"
    return Cell(
        before=0.2 if scored else None,
        after=0.4 if scored else None,
        delta=0.2 if scored else None,
        interval=interval or GAP.get(verdict),
        corrected=None,
        p=None,
        p_holm=None,
        effect_size=None,
        n=40,
        n_scored=40 if scored else 0,
        was_reward=was_reward,
        higher_is_better=True,
        verdict=verdict,
    )


def said(
    metrics: dict[str, Cell],
    *,
    macro: dict[str, Cell] | None = None,
    categories: dict[str, dict[str, Cell]] | None = None,
    label: Callable[[str], str] = str,
) -> list[Finding]:
    return findings(
        TaskComparison(
            task="image_to_text",
            n=40,
            before_only=0,
            after_only=0,
            held_back=0,
            families={"metrics": len(metrics), "macro": len(metrics), "categories": 18},
            metrics=metrics,
            macro=macro or {},
            categories=categories or {},
        ),
        label=label,
    )


def told(metrics: dict[str, Cell], **groups: Any) -> list[str]:
    return texts(said(metrics, **groups))


def test_better_and_worse_are_supported_and_no_evidence_is_not() -> None:
    metrics = {
        **{"bleu": cell("better"), "chrf": cell("better"), "rouge_l": cell("better")},
        **{"jaccard": cell("worse"), "token_f1": cell("no evidence")},
    }
    assert [(finding.kind, finding.tone, finding.text) for finding in said(metrics)] == [
        ("supported", "better", "After is better in bleu, chrf and rouge_l."),
        ("supported", "worse", "After is worse in jaccard."),
        (
            "not supported",
            "unclear",
            "No evidence of a difference in token_f1 (this does not show that there is none).",
        ),
    ]


def test_without_a_verdict_nothing_is_claimed() -> None:
    assert told({"bleu": cell("no evidence"), "chrf": cell("no evidence")}) == [
        "No evidence of a difference in bleu and chrf (this does not show that there is none)."
    ]


def test_metrics_are_named_as_the_reader_knows_them() -> None:
    finding = said({"bertscore_f1": cell("worse", was_reward=True)}, label=metric_label)[0]
    assert finding.text == "After is worse in BERTScore F1*."


def test_an_interval_that_excludes_zero_without_a_verdict_is_explained() -> None:
    metrics = {"bleu": cell("no evidence", interval=(0.01, 0.2)), "chrf": cell("no evidence")}
    assert told(metrics)[-1].endswith(
        "The interval of bleu excludes 0 on its own, but that does not survive correction for 2 comparisons."
    )


def test_what_cannot_be_told_says_why() -> None:
    metrics = {
        **{"bleu": cell("better"), "fid": cell("no interval"), "ssim": cell("too few items")},
        **{"lpips": cell("unscored"), "kid": cell("unscored")},
    }
    assert told(metrics)[-1] == (
        "No verdict on fid (one value for all items, so no interval); ssim (too few items); lpips and kid (not scored)."
    )


def test_rewards_are_starred_and_the_others_are_to_be_judged_by() -> None:
    metrics = {"bleu": cell("better", was_reward=True), "chrf": cell("worse"), "ssim": cell("no evidence")}
    sentences = told(metrics)
    assert sentences[:2] == ["After is better in bleu*.", "After is worse in chrf."]
    assert sentences[-1] == (
        "Rewards (*) are inflated by training on them: 1 better, 0 worse. Judge by the 2 metrics that were not trained "
        "on: "
        "0 better, 1 worse, 1 no evidence. Only what was rewarded got better."
    )


def test_a_gain_beyond_the_rewards_is_not_called_theirs_alone() -> None:
    sentence = told({"bleu": cell("better", was_reward=True), "chrf": cell("better")})[-1]
    assert sentence.endswith("Judge by the 1 metric that was not trained on: 1 better, 0 worse.")


def test_with_rewards_only_there_is_nothing_to_judge_by() -> None:
    assert told({"bleu": cell("better", was_reward=True)})[-1].endswith("so there is none to judge by.")


@pytest.mark.parametrize(
    ("macro", "sentence"),
    [
        ("better", "As unweighted means over 2 categories, all verdicts are the same."),
        ("no evidence", "As unweighted means over 2 categories, the verdict differs for bleu (no evidence)."),
    ],
)
def test_means_over_categories_are_compared_with_means_over_items(macro: str, sentence: str) -> None:
    categories = {"A": {"bleu": cell("better")}, "B": {"bleu": cell("worse")}}
    sentences = told({"bleu": cell("better")}, macro={"bleu": cell(macro)}, categories=categories)
    assert sentences[-2] == sentence


def test_categories_that_got_worse_are_named_up_to_a_limit() -> None:
    categories = {f"Kind_{n}": {"bleu": cell("worse"), "chrf": cell("better")} for n in range(8)}
    sentence = told({"bleu": cell("better")}, macro={"bleu": cell("better")}, categories=categories)[-1]
    assert sentence == (
        "Within single categories, corrected for 18 comparisons: 8 better, 8 worse. Worse: bleu in Kind 0, "
        "bleu in Kind 1, bleu in Kind 2, bleu in Kind 3, bleu in Kind 4, bleu in Kind 5 and 2 more."
    )


def test_where_nothing_can_be_told_by_category_that_is_said_once_and_no_verdict_differs() -> None:
    few = {"bleu": cell("too few items")}
    sentences = told({"bleu": cell("too few changed")}, macro=few, categories={"A": few, "B": few})
    assert sentences[-1] == "2 categories have too few items each to be told apart."
    mixed = {"A": few, "B": {"bleu": cell("no evidence")}}
    sentences = told({"bleu": cell("too few changed")}, macro=few, categories=mixed)
    assert sentences[-2] == "As unweighted means over 2 categories, all verdicts are the same."
