"""A metric that a reward optimises is marked as one, whatever the two are called."""

from pathlib import Path

import pytest

from grpo_mmpc.evaluation.metric_tables import METRICS_OF_MODE
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.evaluation.trained import REWARD_METRICS, trained_metrics
from grpo_mmpc.rewards import registered_rewards

METRICS = [*METRICS_OF_MODE["corrected"], "attribute_recall_color"]
NOT_MEASURED = {"repetition_penalty", "length_band", "image_prompt_limit", "english_only", "constraints", "llm_judge"}
"""Rewards that no metric measures."""


def test_every_installed_reward_optimises_a_metric_or_is_known_not_to():
    without = {name for name in registered_rewards() if not trained_metrics([name], metrics=METRICS)}
    assert without == NOT_MEASURED
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


@pytest.mark.parametrize(
    ("rewards", "marked"),
    [
        (["bleu"], {"bleu", "corpus_bleu"}),
        (["bertscore", "json_format"], {"bertscore_f1", "parse_rate"}),
        (["clip_similarity"], {"clip_image_image", "clip_text_image"}),
        (["attribute_f1"], {"attribute_recall", "attribute_recall_type"}),
        (["rouge_l"], {"rouge_l"}),
        (["rewards.text:bleu"], {"bleu", "corpus_bleu"}),
        (["my_rewards.py:brand_match"], set()),
        ([], set()),
    ],
)
def test_metrics_of_a_trained_reward_are_marked_by_family(rewards: list[str], marked: set[str]) -> None:
    known = [*["bleu", "corpus_bleu", "rouge_l", "bertscore_f1", "parse_rate", "clip_image_image", "clip_text_image"]]
    assert trained_metrics(rewards, metrics=[*known, "attribute_recall", "attribute_recall_type"]) == marked


def test_metrics_of_a_task_that_was_only_measured_are_not_marked_as_trained_on(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "tasks: [image_to_text, text_to_image]\n"
        "rewards:\n"
        "  mix:\n"
        "  - {name: bleu, weight: 0.5}\n"
        "  - {name: clip_similarity, weight: 0.5, tasks: [text_to_image]}\n"
    )
    assert RunFolder(tmp_path).trained_rewards() == {
        "image_to_text": ["bleu"],
        "text_to_image": ["bleu", "clip_similarity"],
    }
    (tmp_path / "config.yaml").write_text(
        "tasks: [image_to_text]\nrewards: {mix: [{name: clip_similarity, weight: 1}]}\n"
    )
    assert RunFolder(tmp_path).trained_rewards() == {"image_to_text": ["clip_similarity"]}
