"""CLIP cosines of images and texts; every distinct image and text is encoded once while it is cached."""

import hashlib
import logging
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from grpo_mmpc.assets import resolve_model
from grpo_mmpc.errors import ImageError
from grpo_mmpc.scoring.cache import EncodingCache
from grpo_mmpc.scoring.images import open_image
from grpo_mmpc.scoring.loading import frozen, load, num_bytes, pick_device, scoring

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

ImageSource = str | Path | Image.Image
"""A file, or an image in memory such as one just rendered."""
K = TypeVar("K", bound=Hashable)

_BATCH_SIZE = 64
_CACHE_BYTES = 128 * 2**20  # about 60,000 embeddings of 512 numbers


def clip_encoder(*, model: str, device: str | None = None) -> "ClipEncoder":
    """The process's one encoder of this configuration; loaded when first asked for.

    Args:
        model: Hub name, local folder or ``nano:clip``.
        device: None takes the GPU of this process if there is one.

    Raises:
        ScoringError: The model cannot be loaded.
    """
    return _shared(model, pick_device(device))


@cache
def _shared(model: str, device: str) -> "ClipEncoder":
    return ClipEncoder(model=model, device=device)


class ClipEncoder:
    """A CLIP model with its embeddings. Use ``clip_encoder`` to share one per process.

    Cosines of OpenAI's CLIP live on narrow scales of their own: about 0.15 to 0.35 for an image and its text, 0.5 to 1
    for two product photos. Compare them with one another, not with other scores.
    """

    def __init__(self, *, model: str, device: str = "cpu") -> None:
        self.model_name = model
        self.device = device
        folder = resolve_model(model)
        self._model, self._tokenizer, self._processor = load("CLIP", folder, lambda: _load(folder))
        self._model = frozen(self._model, device=device)
        self.max_text_tokens: int = self._model.config.text_config.max_position_embeddings
        """Tokens that the text encoder can see, start and end included; 77 for OpenAI's models."""
        self.truncated_texts = 0
        """Texts that were longer than ``max_text_tokens`` and scored by their beginning only; counted when encoded."""
        self._images: EncodingCache[Hashable, torch.Tensor] = EncodingCache(max_bytes=_CACHE_BYTES)
        self._texts: EncodingCache[str, torch.Tensor] = EncodingCache(max_bytes=_CACHE_BYTES)
        self._reported: set[str] = set()

    def image_text(self, *, image_paths: Sequence[ImageSource], texts: Sequence[str]) -> list[float]:
        """Cosines of N images and N texts.

        A text longer than the encoder's limit is cut and counted in ``truncated_texts``, with one log line the first
        time.

        Returns:
            N cosines in [-1, 1]; NaN where the image cannot be read (one log line for each).

        Raises:
            ValueError: The numbers of images and texts differ.
        """
        if len(image_paths) != len(texts):
            raise ValueError(f"{len(image_paths)} images for {len(texts)} texts")
        keys, images = self._image_embeddings(image_paths)
        embeddings = self._text_embeddings(texts)
        return [_cosine(images.get(key), embeddings[text]) for key, text in zip(keys, texts, strict=True)]

    def image_image(self, *, image_paths: Sequence[ImageSource], other_paths: Sequence[ImageSource]) -> list[float]:
        """Cosines of N pairs of images.

        Returns:
            N cosines in [-1, 1]; NaN where one of the two cannot be read (one log line for each).

        Raises:
            ValueError: The numbers of images differ.
        """
        if len(image_paths) != len(other_paths):
            raise ValueError(f"{len(image_paths)} images for {len(other_paths)} others")
        keys, images = self._image_embeddings([*image_paths, *other_paths])
        half = len(image_paths)
        return [_cosine(images.get(a), images.get(b)) for a, b in zip(keys[:half], keys[half:], strict=True)]

    def _image_embeddings(
        self, sources: Sequence[ImageSource]
    ) -> tuple[list[Hashable], "dict[Hashable, torch.Tensor]"]:
        """The key of each source, and unit embeddings [D] by key, without the images that cannot be read."""
        keys = [_image_key(source) for source in sources]
        by_key = dict(zip(keys, sources, strict=True))

        def encode(batch: Sequence[Hashable]) -> "dict[Hashable, torch.Tensor]":
            opened = {key: image for key in batch if (image := self._open(by_key[key])) is not None}
            if not opened:
                return {}
            pixels = self._processor(images=list(opened.values()), return_tensors="pt")["pixel_values"]
            features = self._model.get_image_features(pixel_values=pixels.to(self.device))
            return dict(zip(opened, _unit_rows(features), strict=True))

        return keys, self._cached(keys, self._images, encode)

    def _text_embeddings(self, texts: Sequence[str]) -> "dict[str, torch.Tensor]":
        """Unit embeddings [D] by text."""

        def encode(batch: Sequence[str]) -> "dict[str, torch.Tensor]":
            self._count_truncated(batch)
            inputs = self._tokenizer(
                list(batch), padding=True, truncation=True, max_length=self.max_text_tokens, return_tensors="pt"
            )
            features = self._model.get_text_features(
                input_ids=inputs["input_ids"].to(self.device), attention_mask=inputs["attention_mask"].to(self.device)
            )
            return dict(zip(batch, _unit_rows(features), strict=True))

        return self._cached(texts, self._texts, encode)

    def _cached(
        self,
        keys: Sequence[K],
        held: "EncodingCache[K, torch.Tensor]",
        encode: "Callable[[Sequence[K]], dict[K, torch.Tensor]]",
    ) -> "dict[K, torch.Tensor]":
        """Embeddings by key; what is not held is encoded in batches, each distinct key once."""
        found: dict[K, torch.Tensor] = {}
        missing: list[K] = []
        for key in dict.fromkeys(keys):
            embedding = held.get(key)
            if embedding is None:
                missing.append(key)
            else:
                found[key] = embedding
        for start in range(0, len(missing), _BATCH_SIZE):
            with scoring(self.device):
                encoded = encode(missing[start : start + _BATCH_SIZE])
            for key, embedding in encoded.items():
                found[key] = embedding
                held.put(key, embedding, num_bytes=num_bytes(embedding))
        return found

    def _open(self, source: ImageSource) -> Image.Image | None:
        if isinstance(source, Image.Image):
            return source.convert("RGB")
        try:
            return open_image(source)
        except ImageError as error:
            if str(source) not in self._reported:
                self._reported.add(str(source))
                logger.warning("CLIP leaves an item unscored: %s", error)
            return None

    def _count_truncated(self, texts: Sequence[str]) -> None:
        lengths = [len(ids) for ids in self._tokenizer(list(texts), verbose=False)["input_ids"]]
        truncated = sum(length > self.max_text_tokens for length in lengths)
        if truncated and not self.truncated_texts:
            logger.warning(
                "CLIP %s reads at most %d tokens of a text; a longer one (%d tokens) is scored by its beginning. "
                "Further ones are counted in silence.",
                self.model_name,
                self.max_text_tokens,
                max(lengths),
            )
        self.truncated_texts += truncated


def _load(folder: str) -> tuple[Any, Any, Any]:
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel  # heavy: imported on use

    # The Pillow processor, because scores must not depend on whether torchvision happens to be installed.
    return (
        CLIPModel.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        CLIPImageProcessorPil.from_pretrained(folder),
    )


def _image_key(source: ImageSource) -> Hashable:
    """What identifies an image: path, time and size of a file (a render may be replaced), or the pixels in memory."""
    if isinstance(source, Image.Image):
        return source.mode, source.size, hashlib.blake2b(source.tobytes(), digest_size=16).digest()
    path = Path(source)
    try:
        status = path.stat()
    except (OSError, ValueError):  # reported when the image is opened
        return str(path)
    return str(path), status.st_mtime_ns, status.st_size


def _unit_rows(features: Any) -> "torch.Tensor":
    """Embeddings [N, D] of unit length on the CPU. Transformers 5 hands them out as ``pooler_output``."""
    import torch

    rows = features if isinstance(features, torch.Tensor) else features.pooler_output
    return torch.nn.functional.normalize(rows.float(), dim=-1).cpu()


def _cosine(first: "torch.Tensor | None", second: "torch.Tensor | None") -> float:
    if first is None or second is None:
        return float("nan")
    return max(-1.0, min(1.0, float((first * second).sum())))
