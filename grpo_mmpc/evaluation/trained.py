"""Which metrics were trained on: a metric that was also a reward is inflated by training on it, and must be marked."""

from collections.abc import Collection
from pathlib import Path

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.tasks import TASKS

REWARD_METRICS: dict[str, tuple[str, ...]] = {
    "bleu": ("bleu", "corpus_bleu"),
    "token_f1": ("token_f1", "jaccard"),
    "jaccard": ("jaccard", "token_f1"),
    "bertscore": ("bertscore_f1",),
    "chrf_idf": ("chrf",),
    "clip_similarity": ("clip_image_image", "clip_text_image"),
    "dinov2_similarity": ("dino_image_image",),
    "json_format": ("parse_rate",),
    "attribute_f1": ("attribute_recall", "attribute_recall_*", "title_attribute_*"),
}
"""Metrics that a reward optimises, by the reward's name. A reward that is not listed optimises the
metric of its own name, if there is one. ``*`` at the end stands for any ending."""


def trained_metrics(reward_names: Collection[str], *, metrics: Collection[str]) -> set[str]:
    """Which of ``metrics`` were trained on, given the names of the rewards with a positive weight."""
    short = [name.rpartition(":")[2] for name in reward_names]  # module:factory stands for the factory
    patterns = {pattern for name in short for pattern in REWARD_METRICS.get(name, (name,))}
    return {
        metric
        for metric in metrics
        if metric in patterns or any(metric.startswith(p[:-1]) for p in patterns if p.endswith("*"))
    }


def trained_rewards(run: Path) -> dict[str, list[str]]:
    """By task, names of the rewards with a positive weight in the run's ``config.yaml``; empty without that file.

    A task that was only measured has no entry: nothing was trained on it, whatever the mix could
    have scored.
    """
    import yaml

    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        mix = [spec for spec in config["rewards"]["mix"] if float(spec.get("weight", 1.0)) > 0]
        return {
            task: [spec["name"] for spec in mix if spec.get("tasks") is None or task in spec["tasks"]]
            for task in config.get("tasks", list(TASKS))
        }
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise EvaluationError(
            f"{path}: cannot read which rewards were trained on ({type(error).__name__}: {error}); "
            "expected rewards.mix, a list of name and weight, as every run writes it"
        ) from error
