"""Rewards that ask whether the image rendered from a prompt can be told for the product.

No real image is needed, and no text in images is read: an encoder of images and texts chooses among
answers, and the reward is how far the right one comes up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from grpo_mmpc.encoders.clip import clip_encoder
from grpo_mmpc.encoders.loading import pick_dtype
from grpo_mmpc.errors import RewardError
from grpo_mmpc.metrics.metric import is_known
from grpo_mmpc.rendering.shared import shared_renders
from grpo_mmpc.rendering.store import render_seed
from grpo_mmpc.rewards.declaration import Reward
from grpo_mmpc.utils.hashing import stable_order

from .image import refuse_renderer

_COLOURS = ["black", "white", "grey", "silver", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"]


def cycle_consistency(
    *,
    model: str = "openai/clip-vit-base-patch32",
    renderer: str = "diffusers",
    renderer_kwargs: dict[str, Any] | None = None,
    other_titles: int = 255,
    device: str | None = None,
    dtype: str = "float32",
) -> Reward:
    """The share of other titles that the rendered image resembles less than the product's own.

    The way back from prompt to title: CLIP captions the rendered image by choosing among the
    product's title and the same sample of training titles for all. Ties count half. Unlike a raw
    cosine it has the same scale with every encoder.

    Range: [0, 1]. Needs: the true title, the training titles, CLIP, a renderer. Cost: 32 ms for 64
    renders with the nano renderer and 110 ms for their encodings with the nano CLIP; the titles are
    encoded once.

    Gamed by: the title written into the image, which CLIP reads; and whatever no other title says,
    however the product looks. It saturates at 1 where CLIP tells all titles apart.

    Args:
        model: Hub name, local folder or ``nano:clip``.
        renderer: ``diffusers``, ``nano``, ``images_api`` or ``module:factory``; see
            ``clip_similarity``.
        renderer_kwargs: Arguments of the renderer's factory.
        other_titles: How many training titles are compared with, chosen by stable hash.
        device: Where the encoder lives; None takes this process's GPU if there is one.
        dtype: Its precision: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        RewardError: The renderer is not found or refuses its arguments, or ``other_titles`` is
            below 1.
    """
    if other_titles < 1:
        raise RewardError(f"other_titles must be at least 1, found {other_titles}")
    rendered = _rendered(model, renderer, renderer_kwargs, device, dtype)
    cycle = _Cycle(rendered, other_titles)
    return Reward(
        score=cycle,
        value_range=(0.0, 1.0),
        targets=("image",),
        needs=("reference", "corpus", "encoder", "renderer"),
        fit=cycle.fit,
        prepare=rendered.prepare,
    )


def attribute_consistency(
    *,
    values: dict[str, list[str]] | None = None,
    template: str = "a photo of a {value} product",
    model: str = "openai/clip-vit-base-patch32",
    renderer: str = "diffusers",
    renderer_kwargs: dict[str, Any] | None = None,
    device: str | None = None,
    dtype: str = "float32",
) -> Reward:
    """The share of wrong values that the rendered image resembles less than the known ones.

    For every kind of attribute that the catalogue knows of the item, CLIP compares the rendered
    image with each value of that kind, put into a sentence; ties count half, and the reward is the
    mean over kinds. An item without a known value among those listed is unscored.

    Range: [0, 1]. Needs: ``attributes`` of the catalogue, CLIP, a renderer; no text is read in
    images (OCR). Cost: 32 ms for 64 renders with the nano renderer and 110 ms for their encodings
    with the nano CLIP.

    Gamed by: images that show the value and nothing else, a red surface for instance; it sees no
    kind that is not listed, and CLIP tells neither sizes nor counts.

    Args:
        values: Values by kind; null is twelve colours under ``color``.
        template: A sentence with ``{value}``.
        model: Hub name, local folder or ``nano:clip``.
        renderer: See ``cycle_consistency``.
        renderer_kwargs: Arguments of the renderer's factory.
        device: Where the encoder lives; None takes this process's GPU if there is one.
        dtype: Its precision: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        RewardError: A kind has fewer than two values, the template no ``{value}``, or the renderer
            is not found or refuses its arguments.
    """
    known = {kind: list(dict.fromkeys(map(str.lower, some))) for kind, some in (values or {"color": _COLOURS}).items()}
    if few := [kind for kind, some in known.items() if len(some) < 2]:
        raise RewardError(f"values.{few[0]} must list at least two different values, found {known[few[0]]}")
    if "{value}" not in template:
        raise RewardError(f"template must hold {{value}}, found {template!r}")
    rendered = _rendered(model, renderer, renderer_kwargs, device, dtype)
    return Reward(
        score=_Attributes(rendered, known, template),
        value_range=(0.0, 1.0),
        targets=("image",),
        needs=("attributes", "encoder", "renderer"),
        prepare=rendered.prepare,
    )


def rank_share(own: float, others: Sequence[float]) -> float:
    """Return the share of others that are below, ties half: 1 is the best, 0.5 a coin's."""
    return sum((other < own) + 0.5 * (other == own) for other in others) / len(others)


@dataclass(frozen=True, slots=True)
class _Rendered:
    """How far right texts come up among others for the images rendered from prompts."""

    encoder: Callable[[], Any]
    """The process's encoder, loaded on the first call."""
    renderer: str
    renderer_kwargs: Mapping[str, Any]

    def scores(
        self, prompts: Sequence[str], item_ids: Sequence[str], choices: Sequence[Sequence[Sequence[str]]]
    ) -> list[float | None]:
        """Return N means over choices of texts, the right one first in each.

        None without a choice, 0 where nothing was rendered.
        """
        rows = [i for i, own in enumerate(choices) if own]
        if not rows:
            return [None] * len(prompts)
        images = shared_renders(self.renderer, self.renderer_kwargs).images(
            [prompts[i] for i in rows], seeds=[render_seed(item_ids[i]) for i in rows]
        )
        results: list[float | None] = [None if not own else 0.0 for own in choices]
        rendered = {i: image for i, image in zip(rows, images, strict=True) if image is not None}
        if rendered:
            texts = list(dict.fromkeys(text for i in rendered for own in choices[i] for text in own))
            place = {text: position for position, text in enumerate(texts)}
            encoder = self.encoder()
            cosines = (encoder.embed_images(list(rendered.values())) @ encoder.embed_texts(texts).T).tolist()
            for i, row in zip(rendered, cosines, strict=True):
                shares = [
                    rank_share(row[place[right]], [row[place[other]] for other in others])
                    for right, *others in choices[i]
                ]
                results[i] = sum(shares) / len(shares)
        return results

    def prepare(self, **_columns: list[Any]) -> None:
        """Load the encoder."""
        self.encoder()


@dataclass
class _Cycle:
    """See ``cycle_consistency``."""

    rendered: _Rendered
    num_others: int
    others: list[str] = field(default_factory=list)

    def fit(self, titles: Sequence[str]) -> None:
        """Choose the titles to compare with; earlier ones are forgotten."""
        known = list(dict.fromkeys(title for title in titles if is_known(title)))
        if len(known) < 2:
            raise RewardError(f"cycle_consistency cannot be fitted: {len(known)} different training titles, needs two")
        self.others = [known[i] for i in stable_order(known, salt="cycle")[: self.num_others + 1]]

    def __call__(
        self, *, predictions: list[str], title: list[str | None], item_ids: list[str], **_columns: list[Any]
    ) -> list[float | None]:
        if not self.others:
            raise RewardError("cycle_consistency was not fitted; call its fit(titles) with the training titles first")
        # Not the reference, which an answer that becomes an image has none of.
        choices = [[[own, *self._without(own)]] if is_known(own) else [] for own in title]
        return self.rendered.scores(predictions, item_ids, choices)

    def _without(self, own: str | None) -> list[str]:
        return [other for other in self.others if other != own][: self.num_others]


@dataclass(frozen=True)
class _Attributes:
    """See ``attribute_consistency``."""

    rendered: _Rendered
    values: Mapping[str, Sequence[str]]
    template: str

    def __call__(
        self,
        *,
        predictions: list[str],
        item_ids: list[str],
        attributes: list[Mapping[str, Any] | None] | None = None,
        **_columns: list[Any],
    ) -> list[float | None]:
        choices = [self._choices(facts or {}) for facts in attributes or [None] * len(predictions)]
        return self.rendered.scores(predictions, item_ids, choices)

    def _choices(self, facts: Mapping[str, Any]) -> list[list[str]]:
        """Return, for each kind that is known of an item, sentences with the true value first."""
        true = {kind: str(facts.get(kind, "")).strip().lower() for kind in self.values}
        return [
            [
                self.template.format(value=value)
                for value in [true[kind], *(other for other in values if other != true[kind])]
            ]
            for kind, values in self.values.items()
            if true[kind] in values
        ]


def _rendered(
    model: str, renderer: str, renderer_kwargs: dict[str, Any] | None, device: str | None, dtype: str
) -> _Rendered:
    pick_dtype(dtype)
    refuse_renderer(renderer, renderer_kwargs or {})
    return _Rendered(partial(clip_encoder, model=model, device=device, dtype=dtype), renderer, renderer_kwargs or {})
