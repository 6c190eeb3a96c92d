"""A metric that a reward optimises is marked as one, whatever the two are called."""

import pytest

from grpo_mmpc.evaluation.metric_tables import METRICS_OF_MODE
from grpo_mmpc.evaluation.trained import REWARD_METRICS, trained_metrics
from grpo_mmpc.rewards import registered_rewards

METRICS = [*METRICS_OF_MODE["corrected"], "attribute_recall_color"]
OF_FORM = {"repetition_penalty", "length_band", "image_prompt_limit", "english_only", "constraints"}
"""Rewards that no metric measures."""


def test_every_installed_reward_optimises_a_metric_or_is_known_not_to():
    without = {name for name in registered_rewards() if not trained_metrics([name], metrics=METRICS)}
    assert without == OF_FORM
    assert set(REWARD_METRICS) <= set(registered_rewards())


@pytest.mark.parametrize(
    ("reward", "metrics"),
    [
        ("attribute_f1", {"attribute_recall", "attribute_recall_color", "title_attribute_f1"}),
        ("dinov2_similarity", {"dino_image_image"}),
        ("chrf_idf", {"chrf"}),
        ("bleu", {"bleu", "corpus_bleu"}),
        ("my_rewards.py:bleu", {"bleu", "corpus_bleu"}),
    ],
)
def test_metrics_of_a_reward(reward, metrics):
    assert metrics <= trained_metrics([reward], metrics=METRICS)
    assert "psnr" not in trained_metrics([reward], metrics=METRICS)
