"""A reward that asks whether a text finds its own item among others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from grpo_mmpc.encoders.clip import clip_encoder
from grpo_mmpc.encoders.loading import pick_dtype
from grpo_mmpc.encoders.sentence import sentence_encoder
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

    ``sentence`` compares a title with the item's own and with those of other items, ``clip`` a
    title or an image prompt with the real images. The others are items of the training split, or
    with ``negatives: 0`` those of the batch, once each; a batch of one item is then unscored. An
    item that is the same to the encoder (a duplicate, another spelling) is no other.

    Range: [0, 1]. Needs: the true title or the real image, and those of the training split; the
    encoder, loaded on the first call. Cost: that of ``embedding_cosine`` or ``clip_similarity``,
    and 1,000 titles or images to be encoded once.

    Gamed by: words that no other item has, true or not; with few or unlike items, the product type
    alone. It reads what the encoder reads: MiniLM and CLIP hardly tell numbers apart.

    Args:
        encoder: ``sentence`` (image_to_text only) or ``clip`` (both tasks).
        model: Hub name, local folder, ``nano:minilm`` or ``nano:clip``; None takes
            all-MiniLM-L6-v2 or OpenAI's ViT-B/32.
        temperature: Lower makes the nearest other item count for more; None takes 0.05 for
            ``sentence`` and 0.01 for ``clip``, which they were trained with.
        negatives: Items of the training split that stand for the catalogue, chosen by hash, the
            same on every rank; 0 takes the items of the batch.
        device: Where the encoder lives; None takes this process's GPU if there is one.
        dtype: Its precision: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        RewardError: Unknown encoder, a temperature of 0 or less, or fewer than no negatives.
    """
    pick_dtype(dtype)
    if encoder not in DEFAULTS:
        raise RewardError(f"encoder must be one of {', '.join(DEFAULTS)}, found {encoder!r}")
    default_model, default_temperature = DEFAULTS[encoder]
    t = default_temperature if temperature is None else temperature
    if t <= 0 or negatives < 0:
        raise RewardError(
            f"temperature must be above 0 and negatives at least 0, found {t:g} and {negatives}; leave them out"
        )
    load = {"sentence": sentence_encoder, "clip": clip_encoder}[encoder]
    build = partial(load, model=model or default_model, device=device, dtype=dtype)
    in_batch = _Among(encoder=build, shows_images=encoder == "clip", temperature=t)
    fitted = Fitted("retrieval", partial(_among_corpus, in_batch, negatives)) if negatives else None
    pairs = ScorePairs(fitted or in_batch, together=True)
    shared: dict[str, Any] = {"value_range": (0.0, 1.0), "prepare": partial(_prepare, fitted, in_batch)}
    needs = ["encoder", *(["corpus"] if negatives else [])]
    fit = None if fitted is None else fitted.fit
    if encoder == "clip":
        score = partial(_by_image, pairs)
        return Reward(score=score, targets=("text", "image"), needs=("image", *needs), fit_images=fit, **shared)
    return Reward(score=pairs, targets=("text",), needs=("reference", *needs), fit=fit, **shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Among:
    """The probabilities of texts beside items of the catalogue: titles, or paths of images."""

    encoder: Callable[[], Any]
    shows_images: bool
    temperature: float
    items: Sequence[str] | None = None
    """Those that stand for the catalogue; None takes those of the batch."""

    def __call__(self, *, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float | None]:
        import torch  # heavy: imported on use

        encoder = self.encoder()
        own = list(dict.fromkeys(item for items in references for item in items))
        vectors = self.vectors(own)  # [O, D]
        at = {item: place for place, item in enumerate(own)}
        longest = max(map(len, references))
        # Each as often as it takes to fill its row: equal items count once.
        rows = [[at[items[i % len(items)]] for i in range(longest)] for items in references]
        return probabilities(
            encoder.embed_texts(predictions) if self.shows_images else encoder.encode(predictions),
            own=vectors[torch.tensor(rows)],
            items=vectors if self.items is None else self.vectors(self.items),
            temperature=self.temperature,
        )

    def vectors(self, items: Sequence[str]) -> "torch.Tensor":
        """Return unit vectors [M, D]; NaN for an unreadable image and a title in another script."""
        encoder = self.encoder()
        if self.shows_images:
            embedded: torch.Tensor = encoder.embed_images(items)
            return embedded
        encoded: torch.Tensor = encoder.encode(items, keep=True).clone()
        for place, is_read in enumerate(encoder.reads(items)):
            if not is_read:
                encoded[place] = float("nan")
        return encoded


def probabilities(
    texts: "torch.Tensor", *, own: "torch.Tensor", items: "torch.Tensor", temperature: float
) -> list[float | None]:
    """Return for N texts the softmax probability of their own item among it and the others.

    Args:
        texts: Unit vectors [N, D]; NaN where a text cannot be read.
        own: Unit vectors [N, R, D] of their own items, each by R texts of which the closest counts;
            NaN where one cannot be read.
        items: Unit vectors [M, D] of the catalogue; those that equal an own item, and NaN, are none
            of its others. Equal others count once each.
        temperature: Above 0.

    Returns:
        N values in [0, 1]; None without a readable text and item, or without another item.
    """
    items = items[~items.isnan().any(dim=1)]
    is_other = ~(own @ items.T >= _SAME).any(dim=1)  # [N, M]
    to_others = (texts @ items.T / temperature).masked_fill(~is_other, -float("inf"))  # [N, M]
    cosines = (own @ texts[:, :, None]).squeeze(2)  # [N, R]
    to_own = cosines.nan_to_num(nan=-float("inf")).amax(dim=1) / temperature  # [N]
    values = (to_own - to_others.logsumexp(dim=1)).sigmoid()
    is_scored = is_other.any(dim=1) & ~values.isnan() & to_own.isfinite()
    return [float(value) if scored else None for value, scored in zip(values, is_scored, strict=True)]


def _among_corpus(in_batch: _Among, negatives: int, items: Sequence[str]) -> _Among:
    distinct = list(dict.fromkeys(items))
    chosen = stable_order(distinct, salt="retrieval")[:negatives]
    return replace(in_batch, items=tuple(distinct[i] for i in chosen))


def _by_image(pairs: ScorePairs, *, image_paths: list[str | None], **columns: list[Any]) -> list[float | None]:
    """Score by the real image in the place of the true text."""
    return pairs(predictions=columns["predictions"], references=image_paths)


def _prepare(fitted: Fitted | None, in_batch: _Among, **columns: list[Any]) -> None:
    """Encode the catalogue's items and those of the batch."""
    among = in_batch if fitted is None else fitted.scores
    if isinstance(among, _Among):
        own = columns["image_paths" if among.shows_images else "references"]
        among.vectors([*(among.items or ()), *distinct_titles(own)])
