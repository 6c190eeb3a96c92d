"""Controls on the page: what the policy must beat, and whether it looks at the image."""

import pytest

from grpo_mmpc.evaluation.records import Cell, Comparison, TaskComparison
from grpo_mmpc.reports.common.findings import texts
from grpo_mmpc.reports.run.controls import ControlsTable, controls_table

TASK = "image_to_text"


def cell(policy: float | None, control: float | None, verdict: str) -> Cell:
    scored = policy is not None and control is not None
    return Cell(
        before=policy,
        after=control,
        delta=control - policy if policy is not None and control is not None else None,
        interval=(-0.1, 0.1) if scored else None,
        corrected=None,
        p=0.01,
        p_holm=0.01,
        effect_size=None,
        n=40,
        n_scored=40 if scored else 0,
        was_reward=False,
        higher_is_better=True,
        verdict=verdict,
    )


def task(metrics: dict[str, Cell]) -> TaskComparison:
    return TaskComparison(
        task=TASK, n=40, before_only=0, after_only=0, held_back=0, families={}, metrics=metrics, macro={}, categories={}
    )


def view(controls: dict[str, dict[str, Cell]]) -> ControlsTable | None:
    judged = task({"bleu": cell(0.1, 0.5, "better"), "attribute_recall_color": cell(0.1, 0.5, "better")})
    comparison = Comparison(
        before="base",
        after="final",
        before_folder="",
        after_folder="",
        confidence=0.95,
        resamples=100,
        tasks=[judged],
        controls={name: [task(metrics)] for name, metrics in controls.items()},
        best=None,
    )
    return controls_table(judged, comparison, lead="bleu")


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("worse", "the trained policy's prompts are better (0.500)"),
        ("better", "better than the trained policy's prompts (0.500)"),
        ("no evidence", "no evidence of a difference to the trained policy's prompts (0.500)"),
        ("too few items", "too few items to compare it with the trained policy's prompts (0.500)"),
    ],
)
def test_what_the_title_does_as_a_prompt_is_said_in_words(verdict: str, said: str) -> None:
    found = view({"raw_title": {"bleu": cell(0.5, 0.7, verdict)}})
    assert found is not None
    assert found.title_as_prompt == f"The title itself, used as prompt, reaches BLEU 0.700: {said}."


def test_without_that_control_nothing_is_said_of_titles_as_prompts() -> None:
    for metrics in (
        {"other_title": {"bleu": cell(0.5, 0.7, "better")}},
        {"raw_title": {"bleu": cell(None, None, "unscored")}},
    ):
        found = view(metrics)
        assert found is not None and found.title_as_prompt is None


def test_every_control_is_a_column() -> None:
    found = view(
        {
            "blank_image": {"bleu": cell(0.5, 0.1, "worse")},
            "nearest_title": {"bleu": cell(0.5, 0.7, "better")},
            "other_title": {"bleu": cell(0.5, 0.49, "no evidence")},
            "category_title": {"bleu": cell(None, None, "unscored")},
        }
    )
    assert found is not None
    assert list(found.columns) == [
        "policy, blank image",
        "nearest image's title",
        "another item's title",
        "category title",
    ]
    assert list(found.policy) == ["bleu"]  # attribute kinds have a section of their own


@pytest.mark.parametrize(
    ("verdict", "said"),
    [("worse", "it looks at the image"), ("no evidence", "no evidence that it looks at the image")],
)
def test_a_policy_that_is_as_good_without_the_picture_is_said_not_to_look(verdict: str, said: str) -> None:
    found = view({"blank_image": {"bleu": cell(0.5, 0.4, verdict)}})
    assert found is not None
    [sentence] = texts(found.findings)
    assert said in sentence
    assert "BLEU is 0.400 instead of 0.500" in sentence


@pytest.mark.parametrize(
    ("value", "verdict", "said"),
    [
        (0.3, "worse", "the policy, at 0.500, is better"),
        (0.6, "better", "it is the answer to use"),
        (0.5, "no evidence", "no evidence of a difference"),
    ],
)
def test_the_strongest_answer_without_a_policy_is_named(value: float, verdict: str, said: str) -> None:
    found = view(
        {"nearest_title": {"bleu": cell(0.5, value, verdict)}, "other_title": {"bleu": cell(0.5, 0.1, "worse")}}
    )
    assert found is not None
    [sentence] = texts(found.findings)
    assert "nearest image's title" in sentence
    assert said in sentence


def test_without_controls_there_is_no_section() -> None:
    assert view({}) is None
