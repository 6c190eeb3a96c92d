"""Rewards that compare the meaning of the predicted and the true title with a text encoder."""

from typing import Any

from grpo_mmpc.errors import RewardError, ScoringError
from grpo_mmpc.scoring.bertscore import bertscore_encoder, pick_layers, read_baseline
from rewards.declaration import Reward

COMPONENTS = ("precision", "recall", "f1")


def bertscore(
    *,
    model: str = "roberta-large",
    num_layers: int | None = None,
    component: str = "f1",
    rescale_with_baseline: bool = False,
    device: str | None = None,
) -> Reward:
    """BERTScore of the predicted title against the true one, as the ``bert-score`` package computes it.

    Range [0, 1] (cut there). Raw scores use little of it: unrelated titles get about 0.8 with roberta-large and 0.3 with
    MiniLM, so a weight means less than it does for BLEU unless rewards are normalised one by one. Rescaled scores use
    the whole range, and pairs less alike than random sentences get 0.

    Needs the encoder, loaded on the first call and shared with the BERTScore metric. Cost: one forward pass for each new
    text; references are encoded once. Gamed by: fluent titles of the right genre; a wrong colour or size is close to the
    right one in meaning and costs almost nothing. Pair it with ``bleu`` or ``token_f1``.

    Args:
        model: Hub name, local folder or ``nano:minilm``.
        num_layers: Layer to compare; may be left out for models in bert-score's own table and for ``nano:minilm``.
        component: ``precision``, ``recall`` or ``f1``.
        rescale_with_baseline: As in bert-score; only for models that it has a baseline for.
        device: Where the encoder lives; None takes this process's GPU if there is one.

    Raises:
        RewardError: Unknown component or layer, or no baseline for this model.
    """
    if component not in COMPONENTS:
        raise RewardError(f"component must be one of {', '.join(COMPONENTS)}, found {component!r}")
    try:
        layers = pick_layers(model=model, num_layers=num_layers)
    except ScoringError as error:
        raise RewardError(str(error)) from error
    if rescale_with_baseline and read_baseline(model=model, num_layers=layers) is None:
        raise RewardError(
            f"rescale_with_baseline: bert-score has no baseline for {model!r} at layer {layers}; leave the option out, "
            "or use a model that has one, such as roberta-large"
        )

    def score(*, predictions: list[str], references: list[str | None], **_columns: list[Any]) -> list[float | None]:
        known = [(p, r) for p, r in zip(predictions, references, strict=True) if r is not None and r.strip()]
        encoder = bertscore_encoder(model=model, num_layers=layers, device=device)
        scores = encoder.score(
            predictions=[prediction for prediction, _ in known],
            references=[reference for _, reference in known],
            rescale_with_baseline=rescale_with_baseline,
        )
        values = iter(getattr(scores, component))
        return [
            min(1.0, max(0.0, next(values))) if reference is not None and reference.strip() else None
            for reference in references
        ]

    return Reward(score=score, value_range=(0.0, 1.0), tasks=("image_to_text",))
