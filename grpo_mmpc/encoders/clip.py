"""CLIP cosines of images and texts."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grpo_mmpc.encoders.images import ImageEncodings, middle, unit_cosine, unit_rows
from grpo_mmpc.encoders.loading import frozen, load, pick_device, pick_dtype, pretrained, shared
from grpo_mmpc.encoders.store import EncodingStore, encoding_store, stored_encodings
from grpo_mmpc.encoders.texts import MAX_BATCH_ITEMS, TextEncodings
from grpo_mmpc.metrics.image import ImageSource
from grpo_mmpc.utils.model_paths import NO_QUESTION, resolve_model

if TYPE_CHECKING:
    import torch
    from PIL import Image

logger = logging.getLogger(__name__)

_TEXT_BYTES = 128 * 2**20  # about 60,000 embeddings of 512 numbers


def clip_encoder(*, model: str, device: str | None = None, dtype: str = "float32") -> "ClipEncoder":
    """Return the process's one CLIP encoder of this configuration; see ``grpo_mmpc.encoders``."""
    return shared(ClipEncoder, model=model, device=pick_device(device), dtype=pick_dtype(dtype), store=encoding_store())


class ClipEncoder:
    """A CLIP model with its embeddings. Use ``clip_encoder`` to share one per process.

    Cosines of OpenAI's CLIP live on narrow scales of their own: about 0.15 to 0.35 for an image and
    its text, 0.5 to 1 for two product photos. Compare them with one another, not with other scores.
    """

    def __init__(
        self, *, model: str, device: str = "cpu", dtype: str = "float32", store: EncodingStore | None = None
    ) -> None:
        self.model_name = model
        self.device = device
        folder = resolve_model(model)
        self._model, self._tokenizer, self._processor = load("CLIP", folder, lambda: _load(folder))
        options = {"what": "CLIP", "dtype": dtype, "processor": self._processor.to_dict()}
        stored = stored_encodings(store, self._model, **options)
        self._model = frozen(self._model, device=device, dtype=dtype)
        self.max_text_tokens: int = self._model.config.text_config.max_position_embeddings
        """Tokens that the text encoder can see, start and end included; 77 for OpenAI's models."""
        self.truncated_texts = 0
        """Texts encoded so far that were longer than ``max_text_tokens`` and were cut."""
        self._images = ImageEncodings(what="CLIP", device=device, encode=self._encode_images, stored=stored)
        self._texts: TextEncodings[torch.Tensor] = TextEncodings(
            device=device,
            tokenize=self._tokenize,
            forward=self._encode_texts,
            padding=self._tokenizer.pad_token_id,
            limit=self.max_text_tokens,
            finish=lambda _, embedding: embedding,
            max_bytes=_TEXT_BYTES,
            max_kept_bytes=0,
        )

    def image_text(self, *, image_paths: Sequence[ImageSource], texts: Sequence[str]) -> list[float]:
        """Return the cosines of N images and N texts.

        A text longer than the encoder's limit is cut and counted in ``truncated_texts``, with one
        log line the first time.

        Returns:
            N cosines in [-1, 1]; NaN where image or text cannot be read (one log line for each).

        Raises:
            ValueError: The numbers of images and texts differ.
        """
        if len(image_paths) != len(texts):
            raise ValueError(f"{len(image_paths)} images for {len(texts)} texts")
        embeddings = self._texts.of(texts)
        return [
            unit_cosine(image, embeddings.get(text))
            for image, text in zip(self._images.of(image_paths), texts, strict=True)
        ]

    def image_image(self, *, image_paths: Sequence[ImageSource], other_paths: Sequence[ImageSource]) -> list[float]:
        """Return N cosines in [-1, 1] of pairs of images; NaN where one cannot be read."""
        return self._images.cosines(image_paths, other_paths)

    def embed_images(self, image_paths: Sequence[ImageSource]) -> "torch.Tensor":
        """Return unit embeddings [N, D] of images, fp32 on the CPU; NaN for unreadable ones."""
        return self._images.matrix(image_paths, width=self._model.config.projection_dim)

    def embed_texts(self, texts: Sequence[str]) -> "torch.Tensor":
        """Return unit embeddings [N, D] of texts, fp32 on the CPU; NaN for unreadable ones."""
        import torch  # heavy: imported on use

        embeddings = self._texts.of(texts)
        unread = torch.full((self._model.config.projection_dim,), float("nan"))
        return torch.stack([embeddings.get(text, unread) for text in texts])

    def _encode_images(self, images: "list[Image.Image]") -> "torch.Tensor":
        pixels = self._processor(images=[middle(image) for image in images], return_tensors="pt")["pixel_values"]
        tower = self._model.vision_model(pixel_values=pixels.to(self.device, self._model.dtype))
        return _projected(self._model.visual_projection, tower.pooler_output)

    def _encode_texts(self, ids: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        tower = self._model.text_model(input_ids=ids, attention_mask=mask)
        return _projected(self._model.text_projection, tower.pooler_output)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Return token ids cut to the encoder's limit; cut texts are counted, the first logged."""
        rows: list[list[int]] = self._tokenizer(texts, verbose=False)["input_ids"]
        longer = [i for i, ids in enumerate(rows) if len(ids) > self.max_text_tokens]
        if not longer:
            return rows
        if not self.truncated_texts:
            logger.warning(
                "CLIP %s reads at most %d tokens of a text; a longer one (%d tokens) is scored by its beginning. "
                "Further ones are counted silently.",
                self.model_name,
                self.max_text_tokens,
                max(len(rows[i]) for i in longer),
            )
        self.truncated_texts += len(longer)
        cut = self._tokenizer([texts[i] for i in longer], truncation=True, max_length=self.max_text_tokens)["input_ids"]
        for i, ids in zip(longer, cut, strict=True):
            rows[i] = ids
        return rows


def _projected(layer: Any, pooled: "torch.Tensor") -> "torch.Tensor":
    """Return unit embeddings [N, P] of pooled outputs [N, D], the same whatever N is.

    Products of few rows go through other code than those of many, and round otherwise. In the
    towers a row is a token or a patch, and there are always many.
    """
    import torch

    rows = len(pooled)
    filled = torch.cat([pooled, pooled.new_zeros(-rows % MAX_BATCH_ITEMS, pooled.shape[1])])
    return unit_rows(layer(filled)[:rows])


def _load(folder: str) -> tuple[Any, Any, Any]:
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel  # heavy: imported on use

    # The Pillow processor: scores must not depend on whether torchvision is installed.
    return (
        pretrained(CLIPModel, folder),
        AutoTokenizer.from_pretrained(folder, **NO_QUESTION),
        CLIPImageProcessorPil.from_pretrained(folder),
    )
