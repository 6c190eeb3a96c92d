"""A reward that asks whether a text finds its own item among others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from grpo_mmpc.encoders.clip import ClipEncoder, clip_encoder
from grpo_mmpc.encoders.loading import pick_dtype
from grpo_mmpc.encoders.sentence import SentenceEncoder, sentence_encoder
from grpo_mmpc.errors import RewardError
from grpo_mmpc.rewards.declaration import Reward
from grpo_mmpc.utils.hashing import stable_order

from .batches import ScorePairs, distinct_titles
from .corpus import Fitted

if TYPE_CHECKING:
    import torch

DEFAULTS = {
    "sentence": ("sentence-transformers/all-MiniLM-L6-v2", 0.05),
    "clip": ("openai/clip-vit-base-patch32", 0.01),
}
"""By encoder, its model and the temperature that such models are trained with."""
_SAME = 0.9999
"""Items whose vectors have a larger cosine are one to the encoder."""


def retrieval(
    *,
    encoder: str = "sentence",
    model: str | None = None,
    temperature: float | None = None,
    negatives: int = 1000,
    device: str | None = None,
    dtype: str = "float32",
) -> Reward:
    """The probability that the text finds its own item among others of the catalogue.

    A text that would suit many items finds none of them, however close it is to the true one: "Blue
    Mug" is near every blue mug. With the cosines c of the text with its own item and with the
    others, the value is exp(c_own / t) / (exp(c_own / t) + sum of exp(c_other / t)), t being the
    temperature: the softmax that such encoders are trained with (InfoNCE, van den Oord et al.
    2018). Other than a reciprocal rank it still tells completions apart that all come first. One of
    n equally likely items has 1 / n, so values of different numbers of items do not compare.

    ``sentence`` compares a title with the item's own and with titles of the training split, those
    of the batch among them. ``clip`` compares a title or an image prompt with the real images of
    the batch: the item's own and, once each, those of other items; a batch of one item is unscored.
    An item that is the same to the encoder (a duplicate, another spelling) is no other.

    Range: [0, 1]. Needs: for ``sentence`` the true title and the training titles, for ``clip`` real
    images; the encoder, loaded on the first call. Cost: that of ``embedding_cosine`` or
    ``clip_similarity``, and 1,000 titles to be encoded once.

    Gamed by: words that no other item has, true or not; with few or unlike items, the product type
    alone. It reads what the encoder reads: MiniLM and CLIP hardly tell numbers apart.

    Args:
        encoder: ``sentence`` (image_to_text only) or ``clip`` (both tasks).
        model: Hub name, local folder, ``nano:minilm`` or ``nano:clip``; None takes
            all-MiniLM-L6-v2 or OpenAI's ViT-B/32.
        temperature: Lower makes the nearest other item count for more; None takes 0.05 for
            ``sentence`` and 0.01 for ``clip``, which they were trained with.
        negatives: Titles that stand for the catalogue, chosen by hash, the same on every rank.
        device: Where the encoder lives; None takes this process's GPU if there is one.
        dtype: Its precision: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        RewardError: Unknown encoder, a temperature of 0 or less, or no negatives.
    """
    pick_dtype(dtype)
    if encoder not in DEFAULTS:
        raise RewardError(f"encoder must be one of {', '.join(DEFAULTS)}, found {encoder!r}")
    default_model, default_temperature = DEFAULTS[encoder]
    t = default_temperature if temperature is None else temperature
    if t <= 0 or negatives < 1:
        raise RewardError(
            f"temperature must be above 0 and negatives at least 1, found {t:g} and {negatives}; leave them out"
        )
    name = model or default_model
    if encoder == "clip":
        images = _AmongImages(partial(clip_encoder, model=name, device=device, dtype=dtype), t)
        return Reward(
            score=images,
            value_range=(0.0, 1.0),
            targets=("text", "image"),
            needs=("image", "encoder"),
            prepare=images.prepare,
        )
    build = partial(sentence_encoder, model=name, device=device, dtype=dtype)
    fitted = Fitted("retrieval", partial(_fit_titles, build, t, negatives))
    return Reward(
        score=ScorePairs(fitted),
        value_range=(0.0, 1.0),
        targets=("text",),
        needs=("reference", "encoder", "corpus"),
        fit=fitted.fit,
        prepare=partial(_prepare_titles, fitted),
    )


@dataclass(frozen=True, slots=True)
class _AmongTitles:
    """The probabilities of pairs beside the titles that stand for the catalogue."""

    encoder: Callable[[], SentenceEncoder]
    temperature: float
    titles: Sequence[str]

    def __call__(self, *, predictions: Sequence[str], references: Sequence[str]) -> list[float | None]:
        encoder = self.encoder()
        values = probabilities(
            encoder.encode(predictions),
            own=encoder.encode(references, keep=True),
            items=self.items(),
            temperature=self.temperature,
        )
        return [value if read else None for value, read in zip(values, encoder.reads(references), strict=True)]

    def items(self) -> "torch.Tensor":
        """Return the vectors [M, D] of titles whose script the encoder knows."""
        encoder = self.encoder()
        known = [title for title, read in zip(self.titles, encoder.reads(self.titles), strict=True) if read]
        return encoder.encode(known, keep=True)


@dataclass(frozen=True, slots=True)
class _AmongImages:
    """The probabilities of texts beside the real images of their batch."""

    encoder: Callable[[], ClipEncoder]
    temperature: float

    def __call__(
        self, *, predictions: list[str], image_paths: list[str | None], **_columns: list[Any]
    ) -> list[float | None]:
        rows = {i: path for i, path in enumerate(image_paths) if path is not None}
        values: list[float | None] = [None] * len(predictions)
        if not rows:
            return values
        encoder = self.encoder()
        at = {path: place for place, path in enumerate(dict.fromkeys(rows.values()))}
        images = encoder.embed_images(list(at))
        scores = probabilities(
            encoder.embed_texts([predictions[i] for i in rows]),
            own=images[[at[path] for path in rows.values()]],
            items=images,
            temperature=self.temperature,
        )
        for i, score in zip(rows, scores, strict=True):
            values[i] = score
        return values

    def prepare(self, *, image_paths: list[str | None], **_columns: list[Any]) -> None:
        """Encode the real images."""
        if paths := list(dict.fromkeys(path for path in image_paths if path is not None)):
            self.encoder().embed_images(paths)


def probabilities(
    texts: "torch.Tensor", *, own: "torch.Tensor", items: "torch.Tensor", temperature: float
) -> list[float | None]:
    """Return for N texts the softmax probability of their own item among it and the others.

    Args:
        texts: Unit vectors [N, D]; NaN where a text cannot be read.
        own: Unit vectors [N, D] of their own items; NaN where one cannot be read.
        items: Unit vectors [M, D] of the catalogue; those that equal an own item, and NaN, are none
            of its others. Equal others count once each.
        temperature: Above 0.

    Returns:
        N values in [0, 1]; None without a readable text and item, or without another item.
    """
    items = items[~items.isnan().any(dim=1)]
    is_other = own @ items.T < _SAME  # [N, M]
    to_others = (texts @ items.T / temperature).masked_fill(~is_other, -float("inf"))  # [N, M]
    to_own = (texts * own).sum(dim=1) / temperature  # [N]
    values = (to_own - to_others.logsumexp(dim=1)).sigmoid()
    is_scored = is_other.any(dim=1) & ~values.isnan()
    return [float(value) if scored else None for value, scored in zip(values, is_scored, strict=True)]


def _fit_titles(
    encoder: Callable[[], SentenceEncoder], temperature: float, negatives: int, titles: Sequence[str]
) -> _AmongTitles:
    distinct = distinct_titles(titles)
    chosen = stable_order(distinct, salt="retrieval")[:negatives]
    return _AmongTitles(encoder, temperature, tuple(distinct[i] for i in chosen))


def _prepare_titles(fitted: Fitted, *, references: list[str | None], **_columns: list[Any]) -> None:
    """Encode the catalogue's titles and the references."""
    if isinstance(among := fitted.scores, _AmongTitles):
        among.items()
        among.encoder().encode(distinct_titles(references), keep=True)
