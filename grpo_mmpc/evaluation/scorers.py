"""The encoders and the renderer that metrics need; without one its metrics are unscored."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config import EncodersSection, RunConfig
from grpo_mmpc.errors import ScoringError

if TYPE_CHECKING:
    from grpo_mmpc.rendering.renderer import Renderer

_NEEDS = {
    "bertscore": "bertscore",
    "embedding": "sentence",
    "clip": "clip",
    "dino": "dinov2",
    "lpips": "lpips",
    "fid": "inception",
    "kid": "inception",
}
"""The encoder that a metric needs, by the start of the metric's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorers:
    """The encoders and the renderer; None leaves the metrics that need it unscored."""

    bertscore: Any = None
    clip: Any = None
    sentence: Any = None
    dinov2: Any = None
    lpips: Any = None
    inception: Any = None
    renderer: "Renderer | None" = None
    renderer_identity: str = ""
    """Name and arguments of the renderer: images of another one are not reused."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Reasons why scorers are absent, by name."""

    def encoders(self) -> dict[str, Any]:
        """Return the encoders under the names of ``MetricInputs``."""
        return {
            "bertscore": self.bertscore,
            "clip": self.clip,
            "sentence": self.sentence,
            "dino": self.dinov2,
            "lpips": self.lpips,
            "inception": self.inception,
        }


def load_scorers(config: RunConfig) -> Scorers:
    """Load the encoders and the renderer of a recipe.

    Raises:
        EvaluationError: The renderer cannot be loaded.
    """
    from grpo_mmpc.encoders.loading import whole_weights
    from grpo_mmpc.rendering.registry import load_renderer, renderer_identity

    settings = config.evaluation
    loaded, missing = _load_encoders(settings.encoders.model_dump())
    if settings.renderer is None:
        return Scorers(**loaded, missing=missing | {"renderer": "evaluation.renderer is not set"})
    with whole_weights():  # a pipeline's text encoders are Transformers models, which a trainer may be sharding
        renderer = load_renderer(settings.renderer, **settings.renderer_kwargs)
    identity = renderer_identity(settings.renderer, settings.renderer_kwargs)
    return Scorers(**loaded, renderer=renderer, renderer_identity=identity, missing=missing)


def scorers_for(metrics: Iterable[str], *, options: Mapping[str, Mapping[str, Any]]) -> Scorers:
    """Load the encoders that some metrics need.

    ``options`` are arguments by encoder, instead of the defaults of ``evaluation.encoders``.
    """
    defaults = EncodersSection().model_dump()
    needed = dict.fromkeys(encoder for name in metrics if (encoder := encoder_of(name)) is not None)
    loaded, missing = _load_encoders({name: options.get(name) or defaults[name] for name in needed})
    return Scorers(**loaded, missing=missing)


def encoder_of(metric: str) -> str | None:
    """Return the name of the encoder that a metric needs; None for one that needs none."""
    return next((encoder for start, encoder in _NEEDS.items() if metric.startswith(start)), None)


def _load_encoders(options: Mapping[str, Mapping[str, Any] | None]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return encoders by name, and why others are missing; None is one not wanted."""
    from grpo_mmpc import encoders

    loaders: dict[str, Callable[..., Any]] = {
        "bertscore": encoders.bertscore_encoder,
        "clip": encoders.clip_encoder,
        "sentence": encoders.sentence_encoder,
        "dinov2": encoders.dinov2_encoder,
        "lpips": encoders.lpips_scorer,
        "inception": encoders.inception_encoder,
    }
    loaded: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, arguments in options.items():
        if arguments is None:
            missing[name] = "switched off in the recipe"
            continue
        try:
            loaded[name] = loaders[name](**arguments)
        except Exception as error:  # whatever a stranger's model raises costs its own metrics only
            known = isinstance(error, OSError | ValueError | TypeError | ScoringError)
            missing[name] = " ".join((str(error) if known else f"{type(error).__name__}: {error}").split())
    return loaded, missing
