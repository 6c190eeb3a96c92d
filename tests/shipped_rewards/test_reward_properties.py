"""Properties of every registered reward over generated and awkward texts, task by task."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from grpo_mmpc.tasks import TASKS

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

AWKWARD = [
    "",
    "bag",
    "x",
    "Acme Red Tote Bag, Large, Pack of 2",
    "!!! ... ,,, ---",
    "Café Naïve Größe 10½",
    "حقيبة قطنية حمراء كبيرة",
    "红色棉质手提袋",
    "🎒🎒 red bag 🎒",
    "e\u0301\u200b\u00adzero\u202ewidth",
    "bag " * 1250,
    "x" * 5000,
    "ﬁﬂ ⅷ ² \u0000 \ufffd",
]
CHEAP = st.text(max_size=40) | st.lists(
    st.sampled_from(["Acme", "red", "blue", "tote", "bag,", "pack", "of", "2", "12oz", "la", "de", "für"]), max_size=12
).map(" ".join)

Make = Callable[..., Any]


def tasks_of(reward: Any) -> list[str]:
    """The tasks of the paper that a reward scores."""
    return [name for name, task in TASKS.items() if task.kind in reward.targets]


def check(reward: Any, scores: list[float | None]) -> None:
    lowest, highest = reward.value_range
    for score in scores:
        assert score is None or lowest <= score <= highest
        # A malformed completion never beats a well-formed one.
        assert score is None or reward.worst_score <= score


def test_awkward_texts_are_scored_within_the_declared_range(
    reward_name: str, make_reward: Make, make_batch: Make
) -> None:
    reward = make_reward(reward_name)
    for task in tasks_of(reward):
        for reference in (AWKWARD[3], AWKWARD[4], AWKWARD[6], AWKWARD[11]):
            scores = reward(**make_batch(AWKWARD, task=task, references=[reference] * len(AWKWARD)))
            assert len(scores) == len(AWKWARD)
            check(reward, scores)


def test_a_permuted_batch_gets_permuted_scores(reward_name: str, make_reward: Make, make_batch: Make) -> None:
    reward = make_reward(reward_name)
    order = random.Random(0).sample(range(len(AWKWARD)), len(AWKWARD))
    for task in tasks_of(reward):
        batch = make_batch(AWKWARD, task=task)
        batch["completions"] = [TASKS[task].answer(text) for text in AWKWARD]
        batch["references"] = [*AWKWARD[1:], None]
        scores = reward(**batch)
        permuted = reward(**{name: [column[i] for i in order] for name, column in batch.items()})
        # Not to the last bit: an encoder's rounding depends on what shares a forward pass.
        assert permuted == [
            score if score is None else pytest.approx(score, abs=1e-5) for score in (scores[i] for i in order)
        ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prediction=CHEAP, reference=CHEAP)
def test_any_text_is_scored_within_the_declared_range_and_the_same_again(
    quick_reward_name: str, make_reward: Make, make_batch: Make, prediction: str, reference: str
) -> None:
    reward = make_reward(quick_reward_name)
    batch = make_batch([prediction], task=tasks_of(reward)[0], references=[reference])
    scores = reward(**batch)
    check(reward, scores)
    assert reward(**batch) == scores


@pytest.mark.parametrize(
    "name", ["bleu", "rouge_l", "chrf", "token_f1", "jaccard", "chrf_idf", "bertscore", "embedding_cosine"]
)
@pytest.mark.parametrize("title", ["bag", "Acme Red Tote Bag, Large, Pack of 2", "red 2 " * 900])
def test_the_true_title_scores_best(name: str, title: str, make_reward: Make, make_batch: Make) -> None:
    best, other = make_reward(name)(
        **make_batch([title, "something else"], task="image_to_text", references=[title] * 2)
    )
    assert best == pytest.approx(1.0, abs=1e-5)
    assert other < best


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.integers(min_value=0, max_value=7))
@pytest.mark.parametrize("name", ["rouge_l", "chrf", "token_f1", "jaccard", "chrf_idf", "tfidf_cosine"])
def test_every_word_of_the_true_title_that_is_added_pays(
    name: str, kept: int, make_reward: Make, make_batch: Make
) -> None:
    words = ["Acme", "Red", "Tote", "Bag,", "Large,", "Pack", "of", "2"]
    shorter, longer = " ".join(words[:kept]), " ".join(words[: kept + 1])
    scores = make_reward(name)(**make_batch([shorter, longer], task="image_to_text"))
    assert scores[0] <= scores[1] + 1e-12
