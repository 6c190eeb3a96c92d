"""CLIP cosines of images and texts; every distinct image and text is encoded once while it is cached."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from grpo_mmpc.assets import resolve_model
from grpo_mmpc.metrics.image import ImageSource
from grpo_mmpc.scoring.cache import EncodingCache, encode_missing
from grpo_mmpc.scoring.images import ImageEncodings, unit_cosine, unit_rows
from grpo_mmpc.scoring.loading import frozen, load, pick_device

if TYPE_CHECKING:
    import torch
    from PIL import Image

logger = logging.getLogger(__name__)

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
        self._images = ImageEncodings(what="CLIP", device=device, encode=self._encode_images, max_bytes=_CACHE_BYTES)
        self._texts: EncodingCache[str, torch.Tensor] = EncodingCache(max_bytes=_CACHE_BYTES)

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
        embeddings = self._text_embeddings(texts)
        return [
            unit_cosine(image, embeddings[text])
            for image, text in zip(self._images.of(image_paths), texts, strict=True)
        ]

    def image_image(self, *, image_paths: Sequence[ImageSource], other_paths: Sequence[ImageSource]) -> list[float]:
        """Cosines of N pairs of images.

        Returns:
            N cosines in [-1, 1]; NaN where one of the two cannot be read (one log line for each).

        Raises:
            ValueError: The numbers of images differ.
        """
        return self._images.cosines(image_paths, other_paths)

    def embed_images(self, image_paths: Sequence[ImageSource]) -> "torch.Tensor":
        """Unit embeddings of N images, shape [N, D], fp32 on the CPU; a row of NaN where an image cannot be read."""
        import torch  # heavy: imported on use

        nothing = torch.full((self._model.config.projection_dim,), float("nan"))
        rows = [nothing if vector is None else vector for vector in self._images.of(image_paths)]
        return torch.stack(rows) if rows else torch.zeros(0, len(nothing))

    def _encode_images(self, images: "list[Image.Image]") -> "torch.Tensor":
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
        return _unit_rows(self._model.get_image_features(pixel_values=pixels.to(self.device)))

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

        return encode_missing(texts, held=self._texts, encode=encode, device=self.device)

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


def _unit_rows(features: Any) -> "torch.Tensor":
    """Embeddings [N, D] of unit length on the CPU. Transformers 5 hands them out as ``pooler_output``."""
    import torch  # heavy: imported on use

    return unit_rows(features if isinstance(features, torch.Tensor) else features.pooler_output)
