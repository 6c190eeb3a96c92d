"""Metrics that were also rewards: training on them inflates them, and they must be marked."""

from collections.abc import Collection

from grpo_mmpc.config.rewards import reward_key

REWARD_METRICS: dict[str, tuple[str, ...]] = {
    "bleu": ("bleu", "corpus_bleu"),
    "token_f1": ("token_f1", "jaccard"),
    "jaccard": ("jaccard", "token_f1"),
    "bertscore": ("bertscore_f1",),
    "chrf_idf": ("chrf",),
    "retrieval": ("embedding_cosine",),
    "clip_similarity": ("clip_image_image", "clip_text_image"),
    "dinov2_similarity": ("dino_image_image",),
    "cycle_consistency": ("clip_text_image",),
    "attribute_consistency": ("clip_text_image",),
    "json_format": ("parse_rate",),
    "attribute_f1": ("attribute_recall", "attribute_recall_*", "title_attribute_*"),
}
"""Metrics that a reward optimises, by the reward's name. A reward that is not listed optimises the
metric of its own name, if there is one. ``*`` at the end stands for any ending."""


def trained_metrics(reward_names: Collection[str], *, metrics: Collection[str]) -> set[str]:
    """Return those of ``metrics`` that rewards of these names, with a weight, train on."""
    patterns = {pattern for name in map(reward_key, reward_names) for pattern in REWARD_METRICS.get(name, (name,))}
    return {
        metric
        for metric in metrics
        if metric in patterns or any(metric.startswith(p[:-1]) for p in patterns if p.endswith("*"))
    }
