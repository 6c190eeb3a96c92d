"""Encoders and renderer of a recipe: what an evaluation scores with."""

from typing import TYPE_CHECKING

from grpo_mmpc.config import RunConfig

if TYPE_CHECKING:
    from grpo_mmpc.evaluation.runner import Scorers


def load_scorers(config: RunConfig) -> "Scorers":
    """Encoders and renderer of the recipe; an encoder that cannot be loaded leaves its metrics unscored, with the reason.

    Raises:
        EvaluationError: The renderer cannot be loaded.
    """
    from grpo_mmpc.encoders.loading import whole_weights
    from grpo_mmpc.evaluation.encoders import load_encoders
    from grpo_mmpc.evaluation.runner import Scorers
    from grpo_mmpc.rendering.registry import load_renderer, renderer_identity

    settings = config.evaluation
    found, missing = load_encoders(settings.encoders.model_dump())
    if settings.renderer is None:
        missing["renderer"] = "evaluation.renderer is not set"
        return Scorers(**found, missing=missing)
    with whole_weights():  # a pipeline's text encoders are Transformers models, which a trainer may be sharding
        renderer = load_renderer(settings.renderer, **settings.renderer_kwargs)
    return Scorers(
        **found,
        renderer=renderer,
        renderer_identity=renderer_identity(settings.renderer, settings.renderer_kwargs),
        missing=missing,
    )
